"""What a tree costs on a CPU, per layer and step, beside vLLM's own attention of a chain of as many tokens.

    python -m vllm_specflash.lab.bench.tree_attention --out tree-attention.json

Both sides store the step's keys and values and attend; the tree's adds the copies and writes of its side paths
(engine/v1/paths.py). Shapes are the demo targets': 9 heads over 3 KV heads of 64, bfloat16, blocks as where trees run.
"""

import statistics
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.table import Table
from vllm import _custom_ops as ops
from vllm.v1.attention.backends.cpu_attn import _get_attn_isa

from vllm_specflash.config import TREE_BLOCK_SIZE
from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.v1.attention import SidePaths
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.tree.build import best_trees
from vllm_specflash.tree.layout import lay_out
from vllm_specflash.tree.step import Draft, StepTrees

HEADS, KV_HEADS, HEAD_DIM, BLOCK_SIZE = 9, 3, 64, TREE_BLOCK_SIZE
DTYPE = torch.bfloat16


class Layer:
    """One attention layer's cache, with the sequences of a step over it."""

    def __init__(self, trees: StepTrees, context: int):
        requests, rows = len(trees.counts), trees.counts
        base = np.full(requests, context)
        blocks = -(-(context + int(rows.max())) // BLOCK_SIZE)
        own = np.arange(requests * blocks).reshape(requests, blocks)
        spare = np.arange(own.size, own.size + 2 * len(trees.parents))
        self.isa = _get_attn_isa(DTYPE, BLOCK_SIZE, HEAD_DIM, "auto")
        self.cache = torch.randn(own.size + len(spare), KV_HEADS, BLOCK_SIZE, 2 * HEAD_DIM).to(DTYPE)
        self.key_cache, self.value_cache = self.cache.view(-1, KV_HEADS, 2 * BLOCK_SIZE, HEAD_DIM).chunk(2, dim=2)
        tokens = int(rows.sum())
        self.query = torch.randn(tokens, HEADS, HEAD_DIM).to(DTYPE)
        self.key, self.value = torch.randn(2, tokens, KV_HEADS, HEAD_DIM).to(DTYPE)
        position = base[trees.request] + trees.index
        self.slots = torch.from_numpy(own[trees.request, position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE)
        self.chain = self._sequences(rows, base + rows, own)
        self.side_paths = SidePaths(spare, BLOCK_SIZE, [self.cache], DraftStats())
        self.side_paths.begin(trees, rows, base)
        self.paths = self.side_paths.lay_paths(own)
        self.tree = self._sequences(self.paths.query_lens, self.paths.seq_lens, self.paths.block_table(own))
        self.out = torch.empty_like(self.query)

    def _sequences(self, query_lens: np.ndarray, seq_lens: np.ndarray, table: np.ndarray) -> dict:
        starts = torch.from_numpy(np.append(0, np.cumsum(query_lens)).astype(np.int32))
        lens = torch.from_numpy(seq_lens.astype(np.int32))
        plan = ops.cpu_attn_get_scheduler_metadata(
            num_reqs=len(lens), num_heads=HEADS, num_kv_heads=KV_HEADS, head_dim=HEAD_DIM, seq_lens=lens, dtype=DTYPE,
            query_start_loc=starts, causal=True, sliding_window_size=-1, isa=self.isa, enable_kv_split=True,
        )  # fmt: skip
        return {
            "query_start_loc": starts, "seq_lens": lens, "block_table": torch.from_numpy(table.astype(np.int32)),
            "scheduler_metadata": plan,
        }  # fmt: skip

    def _store(self, key: torch.Tensor, value: torch.Tensor, slots: torch.Tensor) -> None:
        ops.cpu_attn_reshape_and_cache(key, value, self.key_cache, self.value_cache, slots, self.isa)

    def _attend(self, sequences: dict) -> None:
        ops.cpu_attention_with_kv_cache(
            query=self.query, key_cache=self.key_cache, value_cache=self.value_cache, output=self.out,
            scale=HEAD_DIM**-0.5, causal=True, alibi_slopes=None, sliding_window=-1, softcap=0, s_aux=None, **sequences,
        )  # fmt: skip

    def run_chain(self) -> None:
        self._store(self.key, self.value, self.slots)
        self._attend(self.chain)

    def run_tree(self) -> None:
        self.side_paths.store(self._store, self.key, self.value, self.cache, self.slots)
        self._attend(self.tree)


def typical_trees(requests: int, nodes: int, seed: int) -> StepTrees:
    """Trees of so many drafted nodes, five deep, out of chances like those of chat."""
    rng = np.random.default_rng(seed)
    first = rng.dirichlet(np.full(33, 0.15), requests)[:, :32]
    following = rng.dirichlet(np.full(33, 0.15), (requests, 4, 32))[..., :32]
    trees = best_trees(first, following, nodes)
    laid = [lay_out(parents)[1] for parents in trees.parent.tolist()]
    return StepTrees.of([Draft([-1, *parents], [np.nan] * (nodes + 1)) for parents in laid])


def microseconds(run, repeats: int) -> float:
    """Median of one call."""
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return 1e6 * statistics.median(taken)


@one_sentence_errors()
def main(
    nodes: Annotated[int, typer.Option(help="Tokens per request, the root counted.")] = 16,
    repeats: Annotated[int, typer.Option(min=10, help="Calls per figure, chain and tree in turns.")] = 60,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
) -> None:
    table = Table("requests", "context", "side paths", "chain us", "tree us", "ratio", title="per layer and step")
    figures = []
    for requests in (1, 8):
        for context in (256, 512, 1024, 2048):
            layer = Layer(typical_trees(requests, nodes - 1, seed=context), context + 17)
            rounds = [(microseconds(layer.run_chain, 10), microseconds(layer.run_tree, 10)) for _ in range(repeats // 10)]
            chain, tree = (statistics.median(side) for side in zip(*rounds))
            paths = int(layer.paths.is_side.sum())
            figures.append(
                {"requests": requests, "context": context, "side_paths": paths, "chain_us": chain, "tree_us": tree}
            )
            table.add_row(*map(str, (requests, context, paths, round(chain), round(tree), round(tree / chain, 2))))
    Console().print(table)
    if out is not None:
        write_provenance(out, nodes=nodes, figures=figures)


if __name__ == "__main__":
    typer.run(main)
