"""A tree as sequences for vLLM's own attention: every path of it is one, under a block table of its own.

Rows of a path see the committed context, their ancestors and themselves. The most probable path lies where a chain
would, in the request's own blocks. Of every other path the context is the request's own up to the block that holds the
root; that block is copied to a spare one, the ancestors' and the path's keys and values are written there at their
positions, and causal attention does the rest. The numbers are those of vLLM's own kernel, whatever its layout.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vllm_specflash.tree.step import StepTrees


def spare_blocks_needed(base: int, deepest: int, block_size: int) -> int:
    """Spare blocks of a path whose last node lies at position base + deepest."""
    return (base + deepest) // block_size - base // block_size + 1


@dataclass(frozen=True)
class PathSequences:
    """Sequences of one step, for R requests of which some verify trees.

    Attributes:
        trees: what is verified; its nodes are the last rows of each request.
        rows: [R] scheduled rows of each request.
        base: [R] target position of each request's root.
        spare: ids of the blocks that side paths may use. Their first blocks lie at its beginning, in their order, so that
            one operation fills them all.
        block_size: positions per block.
    """

    trees: StepTrees
    rows: np.ndarray
    base: np.ndarray
    spare: np.ndarray
    block_size: int

    @cached_property
    def _starts(self) -> np.ndarray:
        """First nodes of all paths, those that begin at a root included."""
        return np.flatnonzero(self.trees.starts_path | (self.trees.index == 0))

    @cached_property
    def _side(self) -> np.ndarray:
        """First nodes of the others."""
        return np.flatnonzero(self.trees.starts_path)

    @cached_property
    def _ends(self) -> np.ndarray:
        """Last nodes of the side paths."""
        ends = np.append(self._starts[1:], len(self.trees.parents)) - 1
        return ends[np.searchsorted(self._starts, self._side)]

    @cached_property
    def _first(self) -> np.ndarray:
        """[P] block index of every side path's root."""
        return self.base[self.trees.request[self._side]] // self.block_size

    @cached_property
    def _count(self) -> np.ndarray:
        """[P] blocks that every side path needs."""
        last = self.base[self.trees.request[self._side]] + self.trees.depth[self._ends]
        return last // self.block_size - self._first + 1

    @property
    def spare_blocks(self) -> int:
        """How many spare blocks all side paths need."""
        return int(self._count.sum())

    @cached_property
    def _blocks(self) -> np.ndarray:
        """[P, most] ids of every side path's blocks; beyond its own they mean nothing."""
        needed = np.arange(self._count.max(initial=0))[:, None] < self._count
        return self.spare[np.cumsum(needed).reshape(needed.shape).T - 1]

    @cached_property
    def owner(self) -> np.ndarray:
        """[S] request of every sequence: its own rows first, then its side paths."""
        return np.repeat(np.arange(len(self.rows)), 1 + np.bincount(self.trees.request[self._side], minlength=len(self.rows)))

    @cached_property
    def is_side(self) -> np.ndarray:
        """[S] whether a sequence is a side path."""
        return np.append(False, self.owner[1:] == self.owner[:-1])

    @cached_property
    def query_lens(self) -> np.ndarray:
        """[S] rows of every sequence."""
        own = self._ends - self._side + 1
        lens = np.empty(len(self.owner), dtype=np.int64)
        lens[self.is_side] = own
        taken = np.bincount(self.trees.request[self._side], weights=own, minlength=len(self.rows)).astype(np.int64)
        lens[~self.is_side] = self.rows - taken
        return lens

    @cached_property
    def seq_lens(self) -> np.ndarray:
        """[S] positions that a sequence's last row sees, itself included."""
        lens = np.empty(len(self.owner), dtype=np.int64)
        before_root = self.rows - self.trees.counts
        lens[~self.is_side] = self.base - before_root + self.query_lens[~self.is_side]
        lens[self.is_side] = self.base[self.trees.request[self._side]] + self.trees.depth[self._ends] + 1
        return lens

    def block_table(self, own: np.ndarray) -> np.ndarray:
        """The requests' block table [R, B] -> the sequences' [S, B]."""
        table = own[self.owner]
        side_row = np.flatnonzero(self.is_side)
        for k, blocks in enumerate(self._blocks.T):
            has = self._count > k
            table[side_row[has], self._first[has] + k] = blocks[has]
        return table

    def copied(self, own: np.ndarray) -> np.ndarray:
        """[P] the requests' blocks to copy to the first so many spare ones, given their block table [R, B]."""
        return own[self.trees.request[self._side], self._first]

    @cached_property
    def writes(self) -> tuple[np.ndarray, np.ndarray]:
        """(rows, slots): which of the batch's keys and values the side paths hold beside their own blocks' copies."""
        nodes = self.trees.ancestors[self._ends]
        path, level = np.nonzero(nodes >= 0)
        node = nodes[path, level]
        request = self.trees.request[node]
        position = self.base[request] + self.trees.depth[node]
        rows = self.trees.rows(self.rows)[node]
        if (self.rows > self.trees.counts).any():
            path, position, rows = self._with_rows_before(path, position, rows)
        block = self._blocks[path, position // self.block_size - self._first[path]]
        return rows, block * self.block_size + position % self.block_size

    def _with_rows_before(self, path: np.ndarray, position: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """And those of the step's rows before a root that lie in its block: when that was copied they were not there yet."""
        owner = self.trees.request[self._side]
        count = np.minimum((self.rows - self.trees.counts)[owner], self.base[owner] % self.block_size)
        before = np.repeat(np.arange(len(owner)), count)
        back = np.repeat(np.cumsum(count), count) - np.arange(len(before))
        root = (np.cumsum(self.rows) - self.trees.counts)[owner]
        added = (before, self.base[owner][before] - back, root[before] - back)
        return tuple(np.concatenate(parts) for parts in zip((path, position, rows), added))

    def moves(self, own: np.ndarray, last: np.ndarray) -> list[tuple[int, int]]:
        """(from, to) of the blocks to copy back once the walks of [R] ended at the flat nodes `last`."""
        head = self._starts[np.searchsorted(self._starts, last, side="right") - 1]
        pairs = []
        for request in np.flatnonzero(self.trees.index[head] > 0):
            path = int(np.searchsorted(self._side, head[request]))
            reached = (self.base[request] + self.trees.depth[last[request]]) // self.block_size - self._first[path] + 1
            for k in range(reached):
                pairs.append((int(self._blocks[path, k]), int(own[request, self._first[path] + k])))
        return pairs
