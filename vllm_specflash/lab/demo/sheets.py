"""Sheets: pages that are full of pictograms, nine to a page, to be read out. Nothing of what they say is in the prompt."""

from dataclasses import dataclass

import numpy as np

from vllm_specflash.lab.demo.canvas import COLOURS, Placed, draw, draw_with_labels, place
from vllm_specflash.lab.demo.pictograms import NAMES

PAGES = (2, 3, 3, 4)
PLACES_A_PAGE = 9


@dataclass(frozen=True)
class Sheet:
    """`pages` hold nine names each, in reading order; no name comes twice. `look` seeds sizes, jitter and shade."""

    pages: tuple[tuple[str, ...], ...]
    colour: str
    look: int

    @property
    def content(self) -> str:
        return " ".join([self.colour, *(name for page in self.pages for name in page)])

    def placed(self, page: int) -> list[Placed]:
        rng = np.random.default_rng([self.look, page])
        return [place(name, cell, rng) for cell, name in enumerate(self.pages[page])]

    def pictures(self) -> np.ndarray:
        """uint8 [pages, 96, 96, 3]; all pages have one shade."""
        return np.stack([draw(self.placed(p), self.colour, self._shade()) for p in range(len(self.pages))])

    def labelled(self):
        """Pictures [pages, 96, 96, 3], patch labels and places [pages, 64], see canvas.draw_with_labels."""
        drawn = [draw_with_labels(self.placed(p), self.colour, self._shade()) for p in range(len(self.pages))]
        return tuple(np.stack(part) for part in zip(*drawn))

    def _shade(self) -> np.random.Generator:
        return np.random.default_rng(self.look)


def sample_sheet(rng: np.random.Generator, pages: tuple[int, ...] = PAGES) -> Sheet:
    count = int(rng.choice(pages))
    names = [NAMES[n] for n in rng.permutation(len(NAMES))[: count * PLACES_A_PAGE]]
    cut = tuple(tuple(names[p * PLACES_A_PAGE : (p + 1) * PLACES_A_PAGE]) for p in range(count))
    return Sheet(cut, COLOURS[rng.integers(len(COLOURS))], int(rng.integers(1 << 30)))
