"""Scenes: one to four objects in nine places on a coloured background."""

from dataclasses import dataclass

import numpy as np

from vllm_specflash.lab.demo.canvas import COLOURS, Placed, draw, draw_with_labels, place
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.words import PLACES


@dataclass(frozen=True)
class Scene:
    """`objects` are (name, cell) in reading order of the cells; `look` seeds sizes, jitter and shade."""

    objects: tuple[tuple[str, int], ...]
    colour: str
    look: int

    @property
    def content(self) -> str:
        return " ".join([self.colour, *(f"{name}@{PLACES[cell]}" for name, cell in self.objects)])

    def placed(self) -> list[Placed]:
        rng = np.random.default_rng(self.look)
        return [place(name, cell, rng) for name, cell in self.objects]

    def pictures(self) -> np.ndarray:
        """uint8 [1, 96, 96, 3]."""
        return draw(self.placed(), self.colour, np.random.default_rng(self.look + 1))[None]

    def labelled(self):
        """Pictures [1, 96, 96, 3], patch labels [1, 64] and patch places [1, 64], see canvas.draw_with_labels."""
        picture, labels, places = draw_with_labels(self.placed(), self.colour, np.random.default_rng(self.look + 1))
        return picture[None], labels[None], places[None]


def sample_scene(rng: np.random.Generator) -> Scene:
    count = int(rng.integers(1, 5))
    cells = sorted(rng.permutation(9)[:count].tolist())
    names = [NAMES[n] for n in rng.permutation(len(NAMES))[:count]]
    return Scene(tuple(zip(names, cells)), COLOURS[rng.integers(len(COLOURS))], int(rng.integers(1 << 30)))
