"""Attention of a target's layers that can run trees: vLLM's own, on the sequences of engine/v1/paths.py.

Subclasses of whatever backend a layer has take its place, one layer object at a time: what vLLM registers, and every
other engine in the process, stays as it is. In steps without a branching tree they only pass on.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.v1.paths import PathSequences, spare_blocks_needed
from vllm_specflash.tree.step import StepTrees
from vllm_specflash.triton_kernels.tree_accept import Acceptance


@dataclass
class SidePaths:
    """What the runner tells the layers about the step at hand, and the blocks set aside for side paths.

    Attributes:
        spare: ids of those blocks, the last of every cache.
        block_size: positions per block.
        kv_caches: of the target's layers.
        stats: told how long side paths take.
        sequences: of this step, once its attention metadata was built; None while no tree branches.
    """

    spare: np.ndarray
    block_size: int
    kv_caches: list[Tensor]
    stats: DraftStats
    sequences: PathSequences | None = None
    _planned: PathSequences | None = None
    _own_blocks: np.ndarray | None = None
    _copied: Tensor | None = None
    _writes: tuple[Tensor, Tensor] | None = None
    _stored: tuple[Tensor, Tensor] | None = None

    def side_path_seconds(self, repeats: int = 5) -> float:
        """Of the time to fill some paths' first blocks in every layer, one path's share: most of what it costs beside
        its tokens."""
        timings, blocks = [], torch.zeros(min(8, len(self.spare)), dtype=torch.int64)
        for _ in range(repeats):
            began = time.perf_counter()
            for kv_cache in self.kv_caches:
                self._fill(kv_cache, blocks)
            timings.append((time.perf_counter() - began) / len(blocks))
        return min(timings)

    def begin(self, trees: StepTrees, rows: np.ndarray, base: np.ndarray) -> bool:
        """A step begins whose trees branch; rows and base [R] as in PathSequences.

        Returns whether there are spare blocks for all side paths: where not, nothing has begun.
        """
        planned = PathSequences(trees, rows, base, self.spare, self.block_size)
        fits = planned.spare_blocks <= len(self.spare)
        self._planned = planned if fits else None
        return fits

    def end(self) -> None:
        """What runs before the next step begins (a plain step, a dummy batch) is none of this one's."""
        self._planned = self.sequences = None

    def split(self, common):
        """CommonAttentionMetadata with every path as a sequence of its own; the same where no tree branches."""
        if self._planned is None:
            return common
        with self.stats.timing("verify_seconds"):
            return self._split(common)

    def lay_paths(self, own: np.ndarray) -> PathSequences:
        """The step's sequences, given the requests' block table [R, B]; `store` fills their blocks from here on."""
        paths = self._planned
        self.sequences, self._own_blocks = paths, own
        self._copied = torch.from_numpy(paths.copied(own)).long()
        self._writes, self._stored = tuple(map(torch.from_numpy, paths.writes)), None
        return paths

    def _split(self, common):
        own = common.block_table_tensor.numpy()
        paths = self.lay_paths(own)
        starts = torch.from_numpy(np.append(0, np.cumsum(paths.query_lens)).astype(np.int32))
        seq_lens = torch.from_numpy(paths.seq_lens.astype(np.int32))
        return replace(
            common,
            query_start_loc=starts,
            query_start_loc_cpu=starts,
            seq_lens=seq_lens,
            num_reqs=len(seq_lens),
            max_query_len=int(paths.query_lens.max()),
            max_seq_len=int(paths.seq_lens.max()),
            block_table_tensor=torch.from_numpy(paths.block_table(own)),
        )

    def store(self, update, key: Tensor, value: Tensor, kv_cache: Tensor, slots: Tensor) -> None:
        """Store a step's keys and values at its slots in one layer, and in the side paths' blocks there.

        Args:
            update: `update(key, value, slots)` stores rows at slots. It is called once: its call takes longer than what it stores.
        """
        with self.stats.timing("verify_seconds"):
            self._fill(kv_cache, self._copied)
            if self._stored is None:
                # The same in every layer.
                rows, at = self._writes
                self._stored = torch.cat((torch.arange(len(slots)), rows)), torch.cat((slots, at.to(slots.dtype)))
            rows, slots = self._stored
            key, value = key.index_select(0, rows), value.index_select(0, rows)
        update(key, value, slots)

    def commit(self, acceptance: Acceptance) -> None:
        """Keys and values of the accepted paths go to where a chain's would be, the requests' own blocks, in every layer."""
        if self.sequences is None:
            return
        lengths, nodes = acceptance.lengths.numpy(), acceptance.nodes.numpy()
        ends = nodes[np.arange(len(lengths)), np.maximum(lengths, 1) - 1]
        moves = self.sequences.moves(self._own_blocks, self.sequences.trees.first + np.where(lengths > 0, ends, 0))
        for source, target in moves:
            for kv_cache in self.kv_caches:
                kv_cache[target].copy_(kv_cache[source])
        self.end()

    def _fill(self, kv_cache: Tensor, blocks: Tensor) -> None:
        """Copy blocks that are not spare to as many spare ones; several times faster than one after the other."""
        first = int(self.spare[0])
        torch.index_select(kv_cache[:first], 0, blocks, out=kv_cache[first : first + len(blocks)])

    def allowance(self) -> "BlockAllowance":
        """Of the step that is being drafted."""
        return BlockAllowance(len(self.spare), self.block_size)


@dataclass
class BlockAllowance:
    """What one step can verify, used up tree by tree: spare blocks for side paths.

    A tree for whose paths too few are left loses the last ones.
    """

    left: int
    block_size: int

    def take(self, nodes: int, side_paths: Sequence[int], root: int, deepest: int) -> int:
        """How many of a branching tree's drafted nodes can be verified, cut where a side path begins or between nodes.

        Args:
            side_paths: drafted nodes, from 0, with which its side paths begin.
            root: target position of its root.
            deepest: depth of its deepest node.
        """
        each = spare_blocks_needed(root, deepest, self.block_size)
        paths = min(len(side_paths), self.left // each)
        self.left -= paths * each
        return nodes if paths == len(side_paths) else side_paths[paths]


@cache
def tree_impl(cls: type) -> type:
    """A class of vLLM's attention that stores keys and values in a call of its own, able to run trees."""

    class TreeImpl(cls):
        def do_kv_cache_update(self, layer, key, value, kv_cache, slot_mapping):
            def update(keys: Tensor, values: Tensor, slots: Tensor) -> None:
                super(TreeImpl, self).do_kv_cache_update(layer, keys, values, kv_cache, slots)

            if self.side_paths.sequences is None:
                update(key, value, slot_mapping)
            else:
                self.side_paths.store(update, key, value, kv_cache, slot_mapping)

    return TreeImpl


@cache
def tree_metadata_builder(cls: type) -> type:
    """The same for a builder of its metadata."""

    class TreeMetadataBuilder(cls):
        def build(self, common_prefix_len, common_attn_metadata, *args, **kwargs):
            return super().build(common_prefix_len, self.side_paths.split(common_attn_metadata), *args, **kwargs)

    return TreeMetadataBuilder


def run_trees(owner, able: Callable[[type], type], side_paths: SidePaths) -> None:
    """Let one impl or builder object of vLLM's run trees; `able` is one of the two functions above."""
    owner.__class__ = able(type(owner))
    owner.side_paths = side_paths
