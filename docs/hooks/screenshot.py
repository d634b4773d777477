"""Makes docs/inspect.png: `specflash inspect` on one page of pictograms, as a browser shows it.

    python docs/hooks/screenshot.py     # needs chromium; Pillow comes with vLLM

Times are the machine's: run it while nothing else does.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
ASKED, PICTURE = "Name everything on the pages in order.", ROOT / "examples" / "data" / "pictures" / "sheet-03-0.png"
# Pixels: down to the fourth step, which has a token that was rejected.
WIDTH, HEIGHT = 1100, 1808
COLOURS = 256


def inspected(scratch: Path) -> Path:
    """The page that the command writes into a folder. Raises CalledProcessError where it fails."""
    page = scratch / "inspect.html"
    command = [Path(sys.executable).with_name("specflash"), "inspect", "--target", "sheets"]
    subprocess.run([*command, "--prompt", ASKED, "--image", PICTURE, "--out", page], check=True)
    return page


def screenshot(page: Path, scratch: Path) -> Image.Image:
    """The page from its top. Raises CalledProcessError where the browser fails."""
    shot = scratch / "inspect.png"
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--user-data-dir={scratch}/profile"]
    subprocess.run([*browser, f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={shot}", page.as_uri()], check=True)
    with Image.open(shot) as shown:
        return shown.convert("RGB")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        screenshot(inspected(folder), folder).quantize(COLOURS).save(ROOT / "docs" / "inspect.png", optimize=True)
