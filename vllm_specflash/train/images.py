"""Images and videos of a prompt, from files."""

import base64
import mimetypes
from pathlib import Path

from vllm_specflash.train.skipped import Unusable

IMAGE_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def images_below(folder: Path) -> list[Path]:
    """All image files of a folder and its subfolders, in the order of their paths."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


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


def video_url(path: str) -> str:
    """The file as a data URL, which vLLM takes without being given access to the file system.

    Raises:
        Unusable: the file is missing.
    """
    kind = mimetypes.guess_type(path)[0] or "video/mp4"
    try:
        return f"data:{kind};base64,{base64.b64encode(Path(path).read_bytes()).decode()}"
    except OSError as error:
        raise Unusable("a video could not be read", f"{path}: {error}") from error
