"""What only a checkout has: the demo's weights and the prompts of examples/, which would be nearly all of a wheel."""

from pathlib import Path

from vllm_specflash.config import SpecFlashError

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = ROOT / "vllm_specflash" / "lab" / "demo" / "weights"
# Beside the shipped target's: projector and LoRA of one that also reads sheets out.
SHEET_READER = WEIGHTS / "sheets"
EXAMPLE_DATA = ROOT / "examples" / "data"


def required(path: Path) -> Path:
    """The path itself.

    Raises:
        SpecFlashError: there is nothing; says how to get what only a checkout has.
    """
    if not path.exists():
        raise SpecFlashError(
            f"There is no {path}: the demo's weights and prompts are part of a checkout, not of a wheel; run `pip install --editable .` in one."
        )
    return path
