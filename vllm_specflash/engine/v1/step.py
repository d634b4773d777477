"""What one engine step committed, as the draft needs it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.triton_kernels.find_copies import Copies, find_copies


@dataclass
class Step:
    """R requests in batch order; T rows of hidden states.

    Attributes:
        req_ids: R request ids.
        hidden_states: [T, D], the target's after the final norm, for every scheduled token.
        embeddings: [T, D or more], its inputs; what they are where nothing visual was read does not matter.
        layer_states: inputs of the layers that the draft sees too, [T, D] each, in its order of them.
        row: [R] row of each request's first scheduled token.
        start: [R] target position of that token.
        committed: [R] how many of its rows are now part of the sequence (rejected drafts are not).
        path: [R, W] rows of the committed positions counted from each request's first; None where they simply follow.
        room: [R] how deep its draft may be; 0 where none is wanted (mid-prefill, or too near its end).
        slots: [R] how many tokens its draft may have.
        token_ids: [max_num_reqs, max_model_len] tokens by target position, the newest included.
        block_table: [R, max_blocks] int32, on the draft's device.
    """

    req_ids: list[str]
    hidden_states: Tensor
    embeddings: Tensor
    layer_states: list[Tensor]
    row: np.ndarray
    start: np.ndarray
    committed: np.ndarray
    path: np.ndarray | None
    room: np.ndarray
    slots: np.ndarray
    token_ids: np.ndarray
    block_table: Tensor

    def rows(self, requests: np.ndarray, within: np.ndarray) -> np.ndarray:
        """Rows [T'] of hidden states for the within[T']-th committed positions of requests [T']."""
        return self.row[requests] + (within if self.path is None else self.path[requests, within])

    def told(self, rows: Tensor) -> Tensor:
        """What the target tells of rows [T'], [T', feature_size]: its final hidden states, then those of the layers."""
        if not self.layer_states:
            return self.hidden_states[rows]
        return torch.cat([states[rows] for states in (self.hidden_states, *self.layer_states)], dim=-1)

    @property
    def texts(self) -> "Texts":
        # One token behind those that were committed is known.
        return Texts(self.req_ids, self.token_ids, self.start + self.committed + 1, self.room)


@dataclass
class Texts:
    """What R requests' texts are so far; in a pause all that is looked at.

    Attributes:
        req_ids, token_ids, room: as in Step.
        ends: [R] tokens of each.
    """

    req_ids: list[str]
    token_ids: np.ndarray
    ends: np.ndarray
    room: np.ndarray

    def copies(self, requests: np.ndarray, depth: int, vocab_size: int) -> Copies:
        """What the texts of requests [R'] say may come next, `depth` tokens each."""
        tokens, slots, ends = (torch.from_numpy(part) for part in (self.token_ids, requests, self.ends[requests]))
        return find_copies(tokens, slots, ends, depth, vocab_size)


def rooms(requests: list, emitted: list[list[int]], max_model_len: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Of vLLM's states of R requests, how many tokens each one's draft may have and how deep it may be, [R] each.

    A draft that could not be accepted whole is cut: the step after it emits one token of its own. emitted: tokens of this step, none of
    them where no draft is wanted; most: tokens of any draft.
    """
    slots = [max_model_len - request.num_tokens - 1 for request in requests]
    room = []
    for request, left, tokens in zip(requests, slots, emitted):
        if request.sampling_params.max_tokens is not None:
            left = min(left, request.sampling_params.max_tokens - len(request.output_token_ids) - 1)
        missing = request.sampling_params.min_tokens - len(request.output_token_ids)
        if missing > 0:
            # What ends answers is kept from the token after the draft as if none had been accepted: it must not be past the minimum.
            left = min(left, missing - 1)
        room.append(max(0, min(left, most)) if tokens else 0)
    return np.array(slots), np.array(room)
