"""specflash inspect: one answer as a page to look at."""

import os
from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.shared import Draft
from vllm_specflash.lab.bench.console import wide_console
from vllm_specflash.lab.bench.targets import find_target
from vllm_specflash.lab.inspection.answer import AnswerOptions, inspect_answer
from vllm_specflash.lab.inspection.page import page
from vllm_specflash.train.skipped import Unusable


@with_options(options=AnswerOptions)
def run(
    options: AnswerOptions,
    prompt: Annotated[str, typer.Option(help="What is asked.")],
    image: Annotated[list[Path], typer.Option(help="Picture that goes before the prompt; may be repeated.")] = [],
    target: Annotated[
        str, typer.Option(help="Demo target (scenes, smollm2, sheets for pages of 9 pictograms), folder or hub id.")
    ] = "scenes",
    draft: Draft = None,
    out: Annotated[Path, typer.Option(help="HTML file.")] = Path("inspect.html"),
) -> None:
    # As in the benchmark: on few cores a process of its own would only cost the model time.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    console = wide_console()
    try:
        missing = [str(path) for path in image if not path.is_file()]
        if missing:
            raise FileNotFoundError(f"There is no picture {missing[0]}: name an image file with --image.")
        one = find_target(target, draft)
        inspected = inspect_answer(one, prompt, image, options)
    except (ValueError, OSError) as error:
        advice = ": name an image file with --image." if isinstance(error, Unusable) else ""
        console.print(f"{error}{advice}", style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    draft_name = Path(one.draft).name if one.draft else None
    out.write_text(page(inspected, prompt, image, one.name, draft_name), encoding="utf-8")
    console.print(inspected.text, highlight=False, markup=False)
    gained = f"{inspected.record.tokens_per_step:.2f} tokens per decoding step"
    console.print(f"{gained}; written: {out}", highlight=False, markup=False)
