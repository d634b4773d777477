"""The demo targets and the drafts shipped for them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.lab.checkout import SHEET_READER, WEIGHTS
from vllm_specflash.lab.demo import assemble


@dataclass(frozen=True)
class DemoTarget:
    """One target.

    Attributes:
        name: what commands call it.
        title: what tables call it.
        build: returns its folder, assembling it on first use.
        draft: folder of its SpecFLASH draft.
        tasks: files of examples/data that it can answer.
    """

    name: str
    title: str
    build: Callable[[], Path]
    draft: Path
    tasks: tuple[str, ...]


SCENES = DemoTarget(
    "scenes",
    "LLaVA on SmolLM2-135M, scenes and clips",
    lambda: assemble.demo_target(),
    WEIGHTS / "scenes-specflash",
    ("scenes", "clips"),
)
# Pages of pictograms, whose names nobody can guess unseen: what the draft sees of a picture decides how much is drafted.
SHEETS = DemoTarget(
    "sheets",
    "LLaVA on SmolLM2-135M, sheets read out",
    lambda: assemble.demo_target(weights=SHEET_READER),
    SHEET_READER / "specflash",
    ("sheets",),
)
# Everyday prompts are of another make than those that the draft was trained on.
CHAT = DemoTarget(
    "smollm2",
    "SmolLM2-135M-Instruct, chat",
    lambda: assemble.text_target(),
    WEIGHTS / "smollm2-135m-specflash",
    ("chat", "everyday"),
)
DEMO_TARGETS = (SCENES, SHEETS, CHAT)
