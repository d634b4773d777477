"""specflash convert: a checkpoint in the authors' layout (plain variant), as one of ours."""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoConfig

from vllm_specflash.train.convert import convert_authors_checkpoint


def run(
    source: Annotated[Path, typer.Option(help="Their weights: a .safetensors, .bin or .pt file, or a folder of them.")],
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target they belong to.")],
    out: Annotated[Path, typer.Option(help="Folder of the converted draft.")],
    num_attention_heads: Annotated[int | None, typer.Option(help="Query heads of the source; the target's by default.")] = None,
) -> None:
    text = AutoConfig.from_pretrained(target).get_text_config()
    name = Path(target).resolve().name if Path(target).is_dir() else target
    try:
        draft, report = convert_authors_checkpoint(
            source, num_attention_heads or text.num_attention_heads, text.num_key_value_heads, name, text.vocab_size
        )
    except ValueError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    draft.to(torch.bfloat16).save_pretrained(out)
    for theirs, ours in report.mapped.items():
        typer.echo(f"{theirs} -> {ours}")
    for tensor in report.dropped:
        typer.echo(f"{tensor}: not kept")
    for note in report.notes:
        typer.echo(f"note: {note}")
