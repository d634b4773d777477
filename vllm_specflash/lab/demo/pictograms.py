"""The objects of the demo world: pictograms of Noto Color Emoji under everyday names.

Drawing needs the font (Debian package `fonts-noto-color-emoji`); only training and the making of new pictures do.
Names are chosen so that none is a word inside another ("bear" is in, "teddy bear" is out) and none is a background
colour's name, which lets an evaluation find them in free text by whole words.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np

from vllm_specflash.config import SpecFlashError

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
FONT_SIZE = 109  # the only size the font's bitmaps exist in

PICTOGRAMS = {
    "dog": "🐶", "cat": "🐱", "mouse": "🐭", "rabbit": "🐰", "fox": "🦊", "bear": "🐻", "panda": "🐼", "koala": "🐨",
    "tiger": "🐯", "lion": "🦁", "cow": "🐮", "pig": "🐷", "frog": "🐸", "monkey": "🐵", "chicken": "🐔",
    "penguin": "🐧", "owl": "🦉", "unicorn": "🦄", "bee": "🐝", "butterfly": "🦋", "snail": "🐌", "ladybug": "🐞",
    "turtle": "🐢", "snake": "🐍", "octopus": "🐙", "crab": "🦀", "fish": "🐠", "dolphin": "🐬", "whale": "🐳",
    "elephant": "🐘", "camel": "🐫", "duck": "🦆", "spider": "🕷",
    "apple": "🍎", "pear": "🍐", "orange": "🍊", "lemon": "🍋", "banana": "🍌", "watermelon": "🍉", "grapes": "🍇",
    "strawberry": "🍓", "pineapple": "🍍", "tomato": "🍅", "carrot": "🥕", "corn": "🌽", "mushroom": "🍄",
    "bread": "🍞", "cheese": "🧀", "hamburger": "🍔", "pizza": "🍕", "doughnut": "🍩", "cookie": "🍪", "cake": "🎂",
    "lollipop": "🍭", "coffee": "☕",
    "car": "🚗", "bus": "🚌", "bicycle": "🚲", "rocket": "🚀", "airplane": "✈", "sailboat": "⛵", "train": "🚂",
    "tractor": "🚜", "helicopter": "🚁", "house": "🏠", "castle": "🏰", "tent": "⛺", "umbrella": "☂",
    "key": "🔑", "clock": "⏰", "book": "📕", "pencil": "✏", "scissors": "✂", "hammer": "🔨", "bell": "🔔",
    "gift": "🎁", "balloon": "🎈", "guitar": "🎸", "trumpet": "🎺", "drum": "🥁", "violin": "🎻", "football": "⚽",
    "basketball": "🏀", "crown": "👑", "hat": "🎩", "shoe": "👟", "camera": "📷", "television": "📺", "phone": "📱",
    "lock": "🔒", "magnet": "🧲", "anchor": "⚓", "trophy": "🏆", "diamond": "💎", "robot": "🤖", "ghost": "👻",
    "pumpkin": "🎃", "snowman": "⛄",
    "star": "⭐", "heart": "❤", "sun": "🌞", "moon": "🌙", "cloud": "☁", "fire": "🔥", "rainbow": "🌈",
    "lightning": "⚡", "tree": "🌳", "cactus": "🌵", "sunflower": "🌻", "tulip": "🌷", "rose": "🌹", "clover": "🍀",
    "globe": "🌍",
}  # fmt: skip
NAMES = list(PICTOGRAMS)


@lru_cache(maxsize=None)
def _artwork(name: str):
    """The pictogram at the font's own size, cropped to what is drawn: PIL RGBA image."""
    from PIL import Image, ImageDraw, ImageFont

    if not FONT.is_file():
        raise SpecFlashError(f"There is no {FONT} to draw pictures with: install the Debian package fonts-noto-color-emoji.")
    font = ImageFont.truetype(str(FONT), FONT_SIZE)
    image = Image.new("RGBA", (160, 160))
    ImageDraw.Draw(image).text((12, 12), PICTOGRAMS[name], font=font, embedded_color=True)
    return image.crop(image.getbbox())


@lru_cache(maxsize=None)
def glyph(name: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """One pictogram, its longer side `size` pixels: colour premultiplied by coverage [h, w, 3] in 0..255, and
    coverage [h, w, 1] in 0..1, both float32."""
    from PIL import Image

    art = _artwork(name)
    scale = size / max(art.size)
    art = art.resize([max(1, round(side * scale)) for side in art.size], Image.Resampling.LANCZOS)
    rgba = np.asarray(art, dtype=np.float32)
    coverage = rgba[..., 3:] / 255
    return rgba[..., :3] * coverage, coverage
