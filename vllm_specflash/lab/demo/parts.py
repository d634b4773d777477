"""The files that a demo target is made of beside its language model: vision tower, projector and LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.checkout import WEIGHTS, required

if TYPE_CHECKING:
    from torch import Tensor

TOWER, PROJECTOR, LORA = (f"{part}.safetensors" for part in ("tower", "projector", "lora"))


def part(weights: Path, name: str) -> Path:
    """One of a target's files. A tower may be the shipped target's, as that of the one which reads sheets is.

    Raises:
        SpecFlashError: there is no such file.
    """
    own = weights / name
    if name == TOWER and weights.is_dir() and not own.exists():
        own = WEIGHTS / name
    return required(own) if own.is_relative_to(WEIGHTS) else _found(own)


def tensors_of(file: Path) -> dict[str, Tensor]:
    """What is in one of these files, by name.

    Raises:
        SpecFlashError: there is no such file, or it is not one of safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(_found(file))
    except SafetensorError as error:
        raise SpecFlashError(
            f"{file} cannot be read ({error}): name a folder with the tower, projector and LoRA of a demo target."
        ) from error


def _found(file: Path) -> Path:
    if not file.is_file():
        raise SpecFlashError(f"There is no file {file}: name a folder with the tower, projector and LoRA of a demo target.")
    return file
