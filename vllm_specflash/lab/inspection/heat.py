"""Heat maps as small pictures that a page lays over the image."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vllm_specflash.train.images import read_image

# How dark the page makes what a latent does not look at.
SHADE = 215
# Pictures larger than this on a side are made smaller for the page.
LARGEST = 640


def heat_map(weights: Sequence[float], rows: int, columns: int) -> str:
    """Data URL of a PNG [rows, columns]: black, the more transparent the greater the weight; the greatest shows all."""
    relative = np.asarray(weights, dtype=np.float64).reshape(rows, columns)
    relative = relative / relative.max()
    pixels = np.zeros((rows, columns, 4), dtype=np.uint8)
    pixels[..., 3] = np.round(SHADE * (1 - relative))
    return _png(Image.fromarray(pixels, "RGBA"))


def picture(path: Path) -> tuple[str, int, int]:
    """Data URL of an image file, with its width and height on the page."""
    image = read_image(path)
    image.thumbnail((LARGEST, LARGEST))
    return _png(image), *image.size


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
