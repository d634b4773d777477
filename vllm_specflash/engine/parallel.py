"""Tensor parallelism: ranks that hold the draft's heads between them, do their all-reduces together and verify the same trees.

Every rank runs the same code on the same step, but timings differ from rank to rank, and so may an error. So rank 0 alone
decides what is drafted and tells the others (`agree`), and a rank that fails in mid-step still takes part in what the
others wait for (`settle`): an all-reduce left out would meet the target's next one.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from vllm.distributed.parallel_state import get_tp_group


class Ranks:
    """This process among those that share the target's layers.

    Attributes:
        rank, count: which of how many.
    """

    def __init__(self):
        self._group = get_tp_group()
        self.rank, self.count = self._group.rank_in_group, self._group.world_size

    @property
    def leads(self) -> bool:
        """Whether this is the rank whose word counts."""
        return self.rank == 0

    def agree(self, value: Any) -> Any:
        """Rank 0's value, on every rank; all of them must ask."""
        return self._group.broadcast_object(value)

    def sum(self, partial: Tensor) -> Tensor:
        """Over the ranks, on every rank; `partial` may be overwritten."""
        return self._group.all_reduce(partial)


class Collectives:
    """The all-reduces of one step of the draft, in their order.

    Args:
        embed: of the target, token ids [T] -> [T, D]; where its table is sharded, it all-reduces by itself.
        like: of the dtype and device of hidden states.
        size: D.
    """

    def __init__(self, ranks: Ranks, embed: Callable[[Tensor], Tensor], like: Tensor, size: int):
        self._ranks, self._embed, self._like, self._size = ranks, embed, like, size
        self._left: deque[tuple[bool, int]] = deque()

    def plan(self, texts: int, queries: int, rounds: int, per_round: int) -> None:
        """What this step will ask for; to be called before anything that could fail on one rank alone.

        Args:
            texts: tokens that are embedded at first.
            queries: rows of the layer's output; 0 where no drafts are wanted.
            rounds: of drafting.
            per_round: tokens that each query embeds for every round but the first.
        """
        self._left.clear()
        if self._ranks.count > 1:
            self._left += [(True, texts)] if texts else []
            if queries:
                self._left += [(False, queries), *[(True, queries * per_round), (False, queries)] * (rounds - 1)]

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [T, D] of token ids [T]."""
        if not len(ids):
            return self._like.new_empty(0, self._size)
        embedded = self._embed(ids)
        self._done()
        return embedded

    def sum(self, partial: Tensor) -> Tensor:
        """The layer's output from that of this rank's heads, [Q, D]."""
        whole = self._ranks.sum(partial)
        self._done()
        return whole

    def settle(self) -> None:
        """After an error: take part, with nothing to add, in what is left of the plan."""
        while self._left:
            embeds, rows = self._left[0]
            if embeds:
                self.embed(torch.zeros(rows, dtype=torch.int64, device=self._like.device))
            else:
                self.sum(self._like.new_zeros(rows, self._size))

    def _done(self) -> None:
        if self._left:
            self._left.popleft()
