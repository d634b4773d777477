"""Drawing: pictograms on a plain background, 96x96 pixels, with what a dense pretraining wants to know about them."""

from dataclasses import dataclass

import numpy as np

from vllm_specflash.lab.demo.pictograms import NAMES, glyph

IMAGE = 96  # pixels a side
PATCH = 12  # pixels a side
GRID = IMAGE // PATCH  # 8 x 8 = 64 patches, one visual token each
CELL = IMAGE // 3  # pixels a side of one of the nine places

BACKGROUNDS = {
    "white": (245, 245, 245),
    "gray": (150, 150, 150),
    "blue": (110, 165, 240),
    "green": (130, 200, 130),
    "yellow": (245, 225, 110),
    "pink": (250, 175, 205),
    "purple": (165, 125, 215),
    "brown": (160, 115, 80),
}
COLOURS = list(BACKGROUNDS)
NOTHING, UNSURE = 0, -100  # patch labels; object i of NAMES has label i + 1


@dataclass(frozen=True)
class Placed:
    """One pictogram on the canvas: its centre (x, y) and its longer side, in pixels."""

    name: str
    x: float
    y: float
    size: int


def place(name: str, cell: int, rng: np.random.Generator) -> Placed:
    """Somewhere about the middle of one of the nine cells, at a size of its own."""
    x, y = cell % 3 * CELL + CELL / 2 + rng.uniform(-2, 2), cell // 3 * CELL + CELL / 2 + rng.uniform(-2, 2)
    return Placed(name, x, y, int(rng.integers(25, 31)))


def draw(placed: list[Placed], colour: str, rng: np.random.Generator) -> np.ndarray:
    """uint8 picture [96, 96, 3]; `rng` shades the background by a few grey levels."""
    return _paint(placed, colour, rng)[0]


def draw_with_labels(
    placed: list[Placed], colour: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture and, per patch, what lies there and where its middle is.

    Labels [64] int64 are NOTHING, UNSURE (a mere edge) or an object; places [64] int64 are the cell 0..8 of the
    middle of the patch's object, UNSURE where there is none.
    """
    picture, coverages = _paint(placed, colour, rng)
    labels = np.full(GRID * GRID, NOTHING, dtype=np.int64)
    places = np.full(GRID * GRID, UNSURE, dtype=np.int64)
    most = np.full(GRID * GRID, 0.02, dtype=np.float32)
    for item, coverage in zip(placed, coverages):
        share = coverage.reshape(GRID, PATCH, GRID, PATCH).mean(axis=(1, 3)).reshape(-1)
        wins = share > most
        sure = wins & (share > 0.12)
        labels[wins], places[wins] = UNSURE, UNSURE
        labels[sure], places[sure] = NAMES.index(item.name) + 1, cell_of(item.x, item.y)
        most = np.maximum(most, share)
    return picture, labels, places


def cell_of(x: float, y: float) -> int:
    """Which of the nine places a pixel lies in, counted in reading order."""
    return 3 * min(int(y // CELL), 2) + min(int(x // CELL), 2)


def _paint(placed, colour, rng):
    shade = np.asarray(BACKGROUNDS[colour], np.float32) + rng.uniform(-9, 9, 3).astype(np.float32)
    picture = np.empty((IMAGE, IMAGE, 3), np.float32)
    picture[:] = shade
    coverages = []
    for item in placed:
        paint, coverage = glyph(item.name, item.size)
        height, width = coverage.shape[:2]
        top, left = round(item.y - height / 2), round(item.x - width / 2)
        y0, y1, x0, x1 = max(top, 0), min(top + height, IMAGE), max(left, 0), min(left + width, IMAGE)
        inside = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        region = picture[y0:y1, x0:x1]
        region *= 1 - coverage[inside]
        region += paint[inside]
        whole = np.zeros((IMAGE, IMAGE), np.float32)
        whole[y0:y1, x0:x1] = coverage[inside][..., 0]
        coverages.append(whole)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8), coverages
