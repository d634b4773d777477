"""Trees whose nodes keep the slots that vLLM gave them, one after the other: our kernel lets a node see its ancestors only.

Nothing of a tree is stored twice and no block is set aside. Once the sampler has spoken, the accepted nodes' keys and
values move up to where a chain would have put them, in all layers by one launch.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.tree.step import StepTrees
from vllm_specflash.triton_kernels.kv_compact import CacheTable, cache_table, kv_compact
from vllm_specflash.triton_kernels.tree_accept import Acceptance
from vllm_specflash.triton_kernels.tree_attention import MAX_NODES, tree_attention


def keys_and_values(kv_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Views [num_blocks, block_size, Hkv, Dh] of what vLLM's Triton attention keeps as [num_blocks, Hkv, block_size, 2 Dh]."""
    return kv_cache.transpose(1, 2).split(kv_cache.shape[-1] // 2, dim=-1)


@dataclass(frozen=True)
class DeviceTrees:
    """One step's trees on the device, as tree_attention takes them: R' trees of N nodes.

    Attributes:
        rows: [N] int64, the nodes' rows in the batch; None where the nodes are all of its rows.
        block_table: [R', max_blocks] int32.
        context_lens, cu_nodes, ancestors: as in tree_attention.
        max_num_nodes, max_context_len: of the R' trees.
    """

    rows: Tensor | None
    block_table: Tensor
    context_lens: Tensor
    cu_nodes: Tensor
    ancestors: Tensor
    max_num_nodes: int
    max_context_len: int

    def attend(self, query: Tensor, kv_cache: Tensor, scale: float, output: Tensor) -> None:
        """Write the nodes' rows of output, of query's shape [T, H, Dh]; T may be more than the batch's rows."""
        nodes = len(self.ancestors)
        into = output[:nodes] if self.rows is None else None
        attended = tree_attention(
            query[:nodes] if self.rows is None else query.index_select(0, self.rows),
            *keys_and_values(kv_cache),
            self.block_table,
            self.context_lens,
            self.cu_nodes,
            self.ancestors,
            scale,
            out=into,
            max_num_nodes=self.max_num_nodes,
            max_context_len=self.max_context_len,
        )
        if into is None:
            output.index_copy_(0, self.rows, attended)


class NodeAllowance:
    """As many nodes as a mask of ancestors has bits for, the root counted."""

    def fitting(self, nodes: int, side_paths: Sequence[int], root: int, deepest: int) -> int:
        return min(nodes, MAX_NODES - 1)


@dataclass
class NodeVerification:
    """
    Attributes:
        layers: vLLM's attention layers of the target, with their `kv_cache`.
        trees, rows, base: of the step at hand, as `begin` was told; None before the first.
    """

    layers: list
    trees: StepTrees | None = None
    rows: np.ndarray | None = None
    base: np.ndarray | None = None
    _on_device: DeviceTrees | None = field(default=None, init=False)
    _roots: Tensor | None = field(default=None, init=False)
    _block_table: Tensor | None = field(default=None, init=False)
    _verifying: bool = field(default=False, init=False)

    def begin(self, trees: StepTrees, rows: np.ndarray, base: np.ndarray) -> None:
        self.trees, self.rows, self.base = trees, rows, base
        self._on_device, self._verifying = None, trees.branches

    def on_device(self, block_table: Tensor) -> DeviceTrees | None:
        """What the layers see of the step, under the batch's block table [R or more, max_blocks]; None if no tree branches.

        Asked once per metadata builder; only the first has anything copied.
        """
        if self._verifying and self._on_device is None:
            self._on_device = self._copied(block_table)
        return self._on_device

    def commit(self, acceptance: Acceptance) -> None:
        if self._on_device is not None:
            kv_compact(self._caches, self._block_table, self._roots, acceptance.nodes, acceptance.lengths)
        # What runs before the next step begins (a dummy batch, say) is none of this one's.
        self._on_device, self._verifying = None, False

    def side_path_seconds(self) -> float:
        # Nothing of a tree is stored twice.
        return 0.0

    def allowance(self) -> NodeAllowance:
        return NodeAllowance()

    @cached_property
    def _caches(self) -> CacheTable:
        return cache_table([view for layer in self.layers for view in keys_and_values(layer.kv_cache)])

    def _copied(self, block_table: Tensor) -> DeviceTrees:
        trees = self.trees
        # Where every row is a node, chains and plain decodes are trees like the others, and vLLM's attention need not run.
        alone = len(trees.parents) == self.rows.sum() and trees.counts.max() <= MAX_NODES
        requests = np.arange(len(trees.counts)) if alone else np.unique(trees.request[trees.starts_path])
        nodes = np.flatnonzero(np.isin(trees.request, requests))
        counts, base = trees.counts[requests], self.base[requests]
        bounds = np.append(0, np.cumsum(counts))
        arrays = [ancestor_bits(trees, nodes), *(a.astype(np.int32) for a in (bounds, base, self.base))]
        if not alone:
            arrays += [trees.rows(self.rows)[nodes], requests]
        ancestors, cu_nodes, context_lens, self._roots, *picked = to_device(arrays, block_table.device)
        rows, of_requests = picked or (None, None)
        self._block_table = block_table
        return DeviceTrees(
            rows=rows,
            block_table=block_table if alone else block_table.index_select(0, of_requests),
            context_lens=context_lens,
            cu_nodes=cu_nodes,
            ancestors=ancestors,
            max_num_nodes=int(counts.max()),
            max_context_len=int(base.max()),
        )


def ancestor_bits(trees: StepTrees, nodes: np.ndarray) -> np.ndarray:
    """[N] int64 of the flat nodes [N]: bit j is set where node j of the same tree is an ancestor or the node itself."""
    up = trees.ancestors[nodes]
    return np.bitwise_or.reduce(np.where(up >= 0, np.left_shift(np.int64(1), trees.index[up]), 0), axis=1)


def to_device(arrays: list[np.ndarray], device: torch.device) -> list[Tensor]:
    """Copies of arrays [n] of any element types, by one transfer that the host does not wait for."""
    words = [-(-array.nbytes // 8) for array in arrays]
    host = torch.empty(sum(words), dtype=torch.int64, pin_memory=device.type == "cuda")
    for part, array in zip(host.split(words), arrays):
        part.numpy().view(array.dtype)[: len(array)] = array
    # The pinned memory is not handed out again before the copy is through: torch's allocator sees to that.
    copied = host.to(device, non_blocking=True).split(words)
    return [part.view(torch.from_numpy(array).dtype)[: len(array)] for part, array in zip(copied, arrays)]
