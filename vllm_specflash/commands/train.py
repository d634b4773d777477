"""specflash train: a draft for a target, from answers that the target generated."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.report import print_acceptance, print_skipped
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions


@with_options(shape=DraftOptions, loss=LossOptions, recipe=RecipeOptions)
def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    data: Annotated[list[Path], typer.Option(help="Folder of answers from `specflash data`; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Where the draft goes; its checkpoints go into <out>/checkpoints.")],
    shape: DraftOptions,
    loss: LossOptions,
    recipe: RecipeOptions,
) -> None:
    with one_sentence_errors():
        results, skipped = train_draft(target, data, out, shape, loss, recipe)
    print_skipped(skipped)
    print_acceptance(results, f"simulated on held-out answers: {out}")
