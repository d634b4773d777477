"""Slots of what requests see of their draft sequences (draft_attention.py), for its path on CPUs."""

import numpy as np

from .loops import compiled


@compiled("boolean(int32[:], int32[:, :], int64, int32[:, :], int32[:, :], int64[:, ::1], boolean[:, ::1])")
def addresses(visible, block_table, block_size, starts, hidden, slots, seen):
    """Slots [R, L] of the first L draft positions, and which of them are seen; returns whether all are.

    What a request does not see may be anything, NaN included, and NaN survives any mask: its first position's slot stands there instead,
    and slot 0 for one that sees nothing.
    """
    everything = True
    for request in range(len(visible)):
        span, before, count = 0, 0, max(0, min(int(visible[request]), slots.shape[1]))
        for column in range(count):
            while span < starts.shape[1] and starts[request, span] <= column:
                before += hidden[request, span]
                span += 1
            block, place = divmod(column + before, block_size)
            # Nothing here checks bounds.
            block = min(block, block_table.shape[1] - 1)
            slots[request, column] = np.int64(block_table[request, block]) * block_size + place
        seen[request, :count], seen[request, count:] = True, False
        slots[request, count:] = slots[request, 0] if count else 0
        everything = everything and count == slots.shape[1]
    return everything
