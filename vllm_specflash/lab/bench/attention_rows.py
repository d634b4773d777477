"""The draft's attention alone, of one request on a CPU: over a context of pictures with compression, and over all their rows.

    python -m vllm_specflash.lab.bench.attention_rows --out attention-rows.json

`visual_context` shows the same in an engine, for the demo's target. Here the shapes are those of targets that people serve as well: what a
row weighs against the fixed cost of a call grows with heads and head size. The torch path of `draft_attention`, bfloat16, blocks of 128.
"""

from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.demo.sight_time import milliseconds
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.triton_kernels.draft_attention import SpanTable, draft_attention

BLOCK_SIZE = 128
# Text in the prompt and in the answer so far, and between pictures.
TEXT, BETWEEN = 60, 2


class Shape(NamedTuple):
    """Of a draft's layer, and how many positions one picture takes."""

    heads: int
    kv_heads: int
    head_dim: int
    picture_tokens: int


SHAPES = {
    "demo, 64 tokens a picture": Shape(9, 3, 64, 64),
    "LLaVA-1.5-7B, 576 tokens a picture": Shape(32, 32, 128, 576),
    "Qwen2.5-VL-7B, 1,024 tokens a picture": Shape(28, 4, 128, 1024),
}


def span_table(pictures: int, of_picture: int, latents: int) -> SpanTable:
    """Of one request that begins with its pictures."""
    starts = latents + torch.arange(pictures, dtype=torch.int32) * (latents + BETWEEN)
    return SpanTable(starts[None], torch.full((1, pictures), of_picture - latents, dtype=torch.int32))


def rows_seen(pictures: int, of_picture: int) -> int:
    """Rows of a context in which every picture is so many."""
    return TEXT + pictures * (of_picture + BETWEEN)


class Case:
    """A request's query over the cache, with so many latents a picture, or None for all rows."""

    def __init__(self, shape: Shape, pictures: int, latents: int | None):
        of_picture = shape.picture_tokens
        self.rows = rows_seen(pictures, of_picture if latents is None else latents)
        blocks = -(-rows_seen(pictures, of_picture) // BLOCK_SIZE)
        cache = torch.randn(2, blocks * BLOCK_SIZE, shape.kv_heads, shape.head_dim, dtype=torch.bfloat16)
        self._arguments = (
            torch.randn(1, shape.heads, shape.head_dim, dtype=torch.bfloat16), *cache, torch.randperm(blocks, dtype=torch.int32)[None],
            BLOCK_SIZE, torch.tensor([self.rows], dtype=torch.int32),
            SpanTable.empty(1) if latents is None else span_table(pictures, of_picture, latents), shape.head_dim**-0.5,
        )  # fmt: skip

    @torch.inference_mode()
    def __call__(self) -> Tensor:
        return draft_attention(*self._arguments, max_visible=self.rows)


@one_sentence_errors()
def main(
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
    tokens: Annotated[list[int], typer.Option(help="Visual tokens in the context, in whole pictures; may be repeated.", min=1)] = [1024, 2048, 4096, 8192],
    latents: Annotated[int, typer.Option(help="That one picture becomes.", min=0, max=min(shape.picture_tokens for shape in SHAPES.values()))] = 16,
    rounds: Annotated[int, typer.Option(help="Of five calls each.", min=1)] = 60,
) -> None:
    rows = []
    for name, shape in SHAPES.items():
        for asked in tokens:
            pictures = -(-asked // shape.picture_tokens)
            cases = [Case(shape, pictures, latents), Case(shape, pictures, None)]
            times = milliseconds(cases, rounds)
            seen = {"visual_tokens": pictures * shape.picture_tokens, "rows": [case.rows for case in cases], "ms": times}
            rows.append({"shape": name, "pictures": pictures, **seen})
    if out is not None:
        write_provenance(out, device=device(), latents=latents, rounds=rounds, rows=rows)
    table = Table(title=f"The draft's attention, {latents} latents a picture / all rows")
    for column in ("draft of", "visual tokens", "rows", "ms", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        small, large = row["ms"]
        seen = " / ".join(map(str, row["rows"]))
        table.add_row(row["shape"], str(row["visual_tokens"]), seen, f"{small:.3f} / {large:.3f}", f"{small / large:.2f}")
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
