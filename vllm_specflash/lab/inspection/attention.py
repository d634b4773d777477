"""What the draft attended to when it drafted, computed anew: its own attention returns no weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from vllm_specflash.draft import core
from vllm_specflash.engine.hooks import replaced
from vllm_specflash.triton_kernels.draft_attention import SpanTable, target_positions


@dataclass(frozen=True)
class Question:
    """The query row that one request's draft was made from, and where what it saw lies.

    Attributes:
        query: [H, Dh].
        keys, values: [num_slots, Hkv, Dh], the draft's cache.
        block_table: [max_blocks] int32, block_size slots an entry.
        visible: n, draft positions that the row sees.
        spans: of that request, [1, S].
        scale: of the scores.
    """

    query: Tensor
    keys: Tensor
    values: Tensor
    block_table: Tensor
    block_size: int
    visible: int
    spans: SpanTable
    scale: float

    @property
    def positions(self) -> Tensor:
        """Target positions that the row sees, in order, [n] int32."""
        column = torch.arange(self.visible, dtype=torch.int32, device=self.query.device)
        return target_positions(column[None], self.spans)[0]

    @property
    def slots(self) -> Tensor:
        """Where they lie in the cache, [n] int64."""
        positions = self.positions.long()
        return self.block_table.long()[positions // self.block_size] * self.block_size + positions % self.block_size

    def weights(self) -> Tensor:
        """softmax(scale q K^T) of every head over the positions, [H, n] float32."""
        keys = self.keys[self.slots].float()
        # Heads that share a KV head follow each other.
        query = self.query.float().unflatten(0, (keys.shape[1], -1))
        return torch.softmax(self.scale * torch.einsum("kgd,nkd->kgn", query, keys), dim=-1).flatten(0, 1)

    def shares(self, pictures: list[tuple[int, int]]) -> list[list[float]]:
        """[S][M], what share of the attention went to each latent, mean over heads; pictures that leave none are left out.

        Args:
            pictures: (start, length) of each. What the row sees of those positions is their latents.
        """
        share, positions = self.weights().mean(0), self.positions
        shares = [share[(positions >= start) & (positions < start + length)].tolist() for start, length in sorted(pictures)]
        return [of_one for of_one in shares if of_one]


@contextmanager
def first_question() -> Iterator[list[Question]]:
    """Listen to the draft's attention: the list holds the first request's row of the first call, once there was one.

    Later calls are about tokens that this draft itself has guessed. Only references are kept, so that listening takes no
    time that the step would be charged with: ask for the weights before the draft's cache is written again.
    """
    asked: list[Question] = []
    attend = core.draft_attention

    def listening(query, key_cache, value_cache, block_table, block_size, visible, spans, scale, *more, **options):
        if not asked:
            of_first = SpanTable(*(part[:1] for part in spans))
            asked.append(
                Question(query[0], key_cache, value_cache, block_table[0], block_size, int(visible[0]), of_first, scale)
            )
        return attend(query, key_cache, value_cache, block_table, block_size, visible, spans, scale, *more, **options)

    with replaced(core, "draft_attention", listening):
        yield asked
