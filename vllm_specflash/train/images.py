"""Images of a prompt, from files."""

from pathlib import Path

from vllm_specflash.train.skipped import Unusable

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def read_image(path: Path):
    """The picture in RGB, whole.

    Raises:
        Unusable: the file is missing, cut short, or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    # Besides OSError, PIL's decoders raise whatever a damaged file makes them stumble over.
    except Exception as error:
        raise Unusable("an image could not be read", f"{path}: {error}") from error
