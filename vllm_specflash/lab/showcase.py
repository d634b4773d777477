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


DEMO_TARGETS = (
    DemoTarget(
        "scenes",
        "LLaVA on SmolLM2-135M, scenes and clips",
        lambda: assemble.demo_target(),
        WEIGHTS / "scenes-specflash",
        ("scenes", "clips"),
    ),
    DemoTarget(
        "smollm2",
        "SmolLM2-135M-Instruct, chat",
        lambda: assemble.text_target(),
        WEIGHTS / "smollm2-135m-specflash",
        ("chat",),
    ),
)
# Reads pages of pictograms out, which nobody can guess unseen: for benchmarks of what sight is worth.
SHEETS = DemoTarget(
    "sheets",
    "LLaVA on SmolLM2-135M, sheets read out",
    lambda: assemble.demo_target(weights=SHEET_READER),
    SHEET_READER / "specflash",
    ("sheets",),
)
