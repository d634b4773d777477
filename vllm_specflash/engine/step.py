"""What one engine step committed, as the draft needs it."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass
class Step:
    """R requests in batch order; T rows of hidden states.

    Attributes:
        req_ids: R request ids.
        hidden_states: [T, D], the target's after the final norm, for every scheduled token.
        row: [R] row of each request's first scheduled token.
        start: [R] target position of that token.
        committed: [R] how many of its rows are now part of the sequence (rejected drafts are not).
        room: [R] how many tokens its draft may have; 0 where none is wanted (mid-prefill, or too near its end).
        token_ids: [max_num_reqs, max_model_len] tokens by target position, the newest included.
        block_table: [R, max_blocks] int32, on the draft's device.
    """

    req_ids: list[str]
    hidden_states: Tensor
    row: np.ndarray
    start: np.ndarray
    committed: np.ndarray
    room: np.ndarray
    token_ids: np.ndarray
    block_table: Tensor
