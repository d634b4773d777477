"""Pictures in a terminal: two pixels per character cell."""

from pathlib import Path

from PIL import Image
from rich.text import Text

UPPER_HALF = "▀"


def thumbnail(path: Path, columns: int = 24) -> Text:
    """The picture scaled to `columns` pixels wide; each line of text shows two rows of them."""
    with Image.open(path) as picture:
        rows = max(2, round(columns * picture.height / picture.width) // 2 * 2)
        pixels = picture.convert("RGB").resize((columns, rows), Image.Resampling.BOX).load()
    text = Text(no_wrap=True)
    for row in range(0, rows, 2):
        for column in range(columns):
            text.append(UPPER_HALF, f"{_rgb(pixels[column, row])} on {_rgb(pixels[column, row + 1])}")
        text.append("\n")
    return text


def _rgb(colour: tuple[int, int, int]) -> str:
    return "rgb({},{},{})".format(*colour)
