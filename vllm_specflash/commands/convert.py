"""specflash convert: a checkpoint in the authors' layout (plain variant), as one of ours."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from vllm_specflash.commands.report import print_conversion
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.convert import convert_authors_checkpoint
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.target import target_config, target_name


def run(
    source: Annotated[Path, typer.Option(help="Their weights: a .safetensors, .bin or .pt file, or a folder of them.")],
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target they belong to.")],
    out: Annotated[Path, typer.Option(help="Folder of the converted draft.")],
    num_attention_heads: Annotated[int | None, typer.Option(min=1, help="Query heads of the source; the target's by default.")] = None,
) -> None:
    name = target_name(target)
    with one_sentence_errors():
        text = target_config(target).get_text_config()
        draft, report = convert_authors_checkpoint(
            source,
            num_attention_heads or text.num_attention_heads,
            text.num_key_value_heads,
            getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            name,
            text.hidden_size,
            text.vocab_size,
        )
    draft.to(torch.bfloat16).save_pretrained(out)
    write_provenance(out / "provenance.json", source=str(source), target=name, **asdict(report))
    print_conversion(draft.config, report)
    typer.echo(f"written: {out}")
