"""Clips: four to eight frames in which one or two objects move straight across the nine places, or stay put."""

from dataclasses import dataclass

import numpy as np

from vllm_specflash.lab.demo.canvas import CELL, COLOURS, Placed, cell_of, draw, draw_with_labels
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.words import PLACES

DIRECTIONS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}
FRAMES = (4, 5, 6, 7, 8)


@dataclass(frozen=True)
class Mover:
    """An object and its way: `direction` is a key of DIRECTIONS, or None for one that stays."""

    name: str
    start: int
    end: int
    direction: str | None
    size: int

    def middle(self, progress: float) -> tuple[float, float]:
        """(x, y) in pixels at `progress` 0..1 of the clip."""
        (x0, y0), (x1, y1) = (((c % 3 + 0.5) * CELL, (c // 3 + 0.5) * CELL) for c in (self.start, self.end))
        return x0 + progress * (x1 - x0), y0 + progress * (y1 - y0)


@dataclass(frozen=True)
class Clip:
    movers: tuple[Mover, ...]
    colour: str
    frames: int
    look: int

    @property
    def content(self) -> str:
        """Without the number of frames: the same motion at another length is the same content."""
        ways = (f"{m.name}@{PLACES[m.start]}>{PLACES[m.end]}" for m in self.movers)
        return " ".join([self.colour, *ways])

    def placed(self, frame: int) -> list[Placed]:
        return [Placed(m.name, *m.middle(frame / (self.frames - 1)), m.size) for m in self.movers]

    def cell(self, mover: Mover, frame: int) -> int:
        """The place, 0..8, that holds the mover's middle."""
        return cell_of(*mover.middle(frame / (self.frames - 1)))

    def pictures(self) -> np.ndarray:
        """uint8 [frames, 96, 96, 3]; the background keeps its shade."""
        return np.stack(
            [draw(self.placed(f), self.colour, np.random.default_rng(self.look)) for f in range(self.frames)]
        )

    def labelled(self):
        """Pictures [frames, 96, 96, 3], patch labels and places [frames, 64], see canvas.draw_with_labels."""
        drawn = [
            draw_with_labels(self.placed(f), self.colour, np.random.default_rng(self.look)) for f in range(self.frames)
        ]
        return tuple(np.stack(part) for part in zip(*drawn))


def sample_clip(rng: np.random.Generator, frames: tuple[int, ...] = FRAMES) -> Clip:
    """One mover; half of the time a second object in another lane, which moves the same axis or stays."""
    across = rng.random() < 0.5
    lanes = rng.permutation(3)
    names = rng.permutation(len(NAMES))
    movers = [_mover(rng, NAMES[names[0]], across, lanes[0], stays=False)]
    if rng.random() < 0.5:
        movers.append(_mover(rng, NAMES[names[1]], across, lanes[1], stays=rng.random() < 0.5))
    colour = COLOURS[rng.integers(len(COLOURS))]
    return Clip(tuple(movers), colour, int(rng.choice(frames)), int(rng.integers(1 << 30)))


def _mover(rng, name, across, lane, stays) -> Mover:
    start, end = rng.permutation(3)[:2]
    if stays:
        end = start
    elif rng.random() < 0.6:  # mostly the whole way, which is two places
        start, end = (0, 2) if start < end else (2, 0)
    cells = [int(3 * lane + k) if across else int(3 * k + lane) for k in (start, end)]
    direction = None if stays else {(1, 1): "right", (1, 0): "left", (0, 1): "down", (0, 0): "up"}[across, end > start]
    return Mover(name, *cells, direction, int(rng.integers(25, 31)))
