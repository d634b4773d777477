"""specflash data: prompts in, the target's own answers out."""

from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.report import print_skipped
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.generate import GenerationOptions, generate_answers
from vllm_specflash.train.provenance import write_provenance


@with_options(generation=GenerationOptions)
def run(
    prompts: Annotated[Path, typer.Option(help="jsonl, OpenAI chat format, or fields id, task, prompt, images.")],
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    out: Annotated[Path, typer.Option(help="Folder of answer shards; an existing one is continued.")],
    generation: GenerationOptions,
    features: Annotated[Path | None, typer.Option(help="Also keep the target's hidden states here, for training.")] = None,
) -> None:
    skipped = generate_answers(prompts, target, out, generation, features)
    print_skipped(skipped)
    folder = AnswerFolder(out)
    write_provenance(
        out / "provenance.json", target=target, prompts=str(prompts), answers=len(folder.ids()),
        data_sha256=folder.digest(), skipped=dict(skipped),
    )  # fmt: skip
