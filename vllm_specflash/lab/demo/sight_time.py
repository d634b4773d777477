"""What a drafting step takes with each way of seeing a picture: the table of sight's last column."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.core import DraftingCore, Queries, Rows
from vllm_specflash.draft.linear import linear_of
from vllm_specflash.lab.demo.conversations import IMAGE_TOKENS
from vllm_specflash.tree.calibration import BINS
from vllm_specflash.triton_kernels.draft_attention import SpanTable

NODES, BLOCK_SIZE, BLOCKS = 16, 128, 8
# Text positions that a step commits, the newest of which asks for a draft: some five of seven are accepted.
COMMITTED = 5


@dataclass
class PlainPages:
    """Keys and values of one request's draft layer, blocks in order; a drafting step writes them by itself."""

    keys: Tensor
    values: Tensor
    block_size: int = BLOCK_SIZE


def drafting_step(draft: SpecFlashDraft, embedding: Tensor, attended_rows: float) -> Callable[[], None]:
    """The core's work in one step of one request, by the torch path in bfloat16.

    Args:
        draft: only its shape counts.
        embedding: [V, D] of the target.
        attended_rows: that the draft sees, those of one picture of IMAGE_TOKENS positions among them.
    """
    config, visible = draft.config, round(attended_rows)
    draft = draft.to(torch.bfloat16).eval()
    embedding = embedding.to(torch.bfloat16)
    shape = BLOCKS * BLOCK_SIZE, config.num_key_value_heads, config.head_dim
    pages = PlainPages(*(torch.randn(shape, dtype=torch.bfloat16) for _ in range(2)))
    core = DraftingCore(draft, linear_of(embedding[draft.d2t]), lambda ids: embedding[ids], pages, config.semi_ar_width, NODES)
    # Without a compressor a picture's positions are text to the draft; otherwise those behind its latents are hidden.
    hidden, spans = 0, SpanTable.empty(1)
    if config.pooling is not None:
        starts, lengths = torch.tensor(config.pooling.cut([(0, IMAGE_TOKENS)]), dtype=torch.int32).T
        hides = (lengths - config.num_latents).clamp(min=0)
        hidden = int(hides.sum())
        spans = SpanTable((starts - hides.cumsum(0) + hides)[None].int(), hides[None])
    positions = torch.arange(visible - COMMITTED, visible)
    told = torch.randn(COMMITTED, config.feature_size, dtype=torch.bfloat16)
    rows = Rows(told, torch.arange(COMMITTED), positions, positions + hidden)
    one = lambda value, dtype=torch.int32: torch.tensor([value], dtype=dtype)  # noqa: E731
    queries = Queries(
        one(COMMITTED - 1, torch.int64), one(visible), torch.arange(BLOCKS, dtype=torch.int32)[None], spans,
        one(config.semi_ar_width), one(False, torch.bool),
    )  # fmt: skip
    ratio = torch.ones(BINS + 1)

    @torch.inference_mode()
    def step() -> None:
        core.propose(rows, queries, ratio, visible)

    return step


def milliseconds(steps: list[Callable[[], None]], rounds: int, each: int = 5) -> list[float]:
    """Median time of each step, taken by turns so that what disturbs the machine disturbs all alike."""
    found: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, timings in zip(steps, found):
            step()
            began = time.perf_counter()
            for _ in range(each):
                step()
            timings.append(1e3 * (time.perf_counter() - began) / each)
    return [statistics.median(timings) for timings in found]
