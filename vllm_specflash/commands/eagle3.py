"""specflash eagle3: a draft for vLLM's own eagle3 method, from the answers that a SpecFLASH draft is trained on."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.report import print_acceptance
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.allocator import keep_freed_memory
from vllm_specflash.train.eagle3_recipe import Eagle3Options, train_eagle3


@with_options(options=Eagle3Options)
def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target: a Llama, or a LLaVA on one.")],
    data: Annotated[list[Path], typer.Option(help="Folder of answers from `specflash data`; may be repeated.")],
    features: Annotated[Path, typer.Option(help="The target's states are kept here; those of `specflash data --target-layers` with the same layers will do.")],
    out: Annotated[Path, typer.Option(help="Where the draft goes.")],
    options: Eagle3Options,
) -> None:
    keep_freed_memory()
    with one_sentence_errors():
        results = train_eagle3(target, data, features, out, options)
    print_acceptance(results, f"simulated on held-out answers: {out}")
