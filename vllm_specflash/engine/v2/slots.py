"""What is known of the requests, by the slot that vLLM gave each: tables on the device, written when a request is added.

Nothing here depends on a step's values: the host writes a request's spans and flags once, the drafting core its tree.
"""

import numpy as np
import torch

from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.engine.spans import Spans
from vllm_specflash.engine.transfer import to_device
from vllm_specflash.triton_kernels.commit_rows import SlotSpans
from vllm_specflash.triton_kernels.draft_attention import SpanTable
from vllm_specflash.triton_kernels.slot_queries import SlotFlags
from vllm_specflash.triton_kernels.tree_rows import TreeTables

# Visual spans (or pieces of them) a request may have and still get drafts: one with more is served without.
MAX_SPANS = 32
MAX_PIECES = 256
FAR = np.iinfo(np.int32).max


def spans_for(pooling: Pooling | None, max_model_len: int) -> int:
    """Room for the spans of one request: what a draft cuts in pieces has as many as a context full of pictures leaves, within reason."""
    if pooling is None or not pooling.cuts:
        return MAX_SPANS
    # Two pieces are longer than `longest` together, and each span may end with one of its own.
    full = MAX_SPANS + 2 * max_model_len // (pooling.longest + 1)
    return min(MAX_PIECES, 1 << (full - 1).bit_length())


class SlotTables:
    """
    Args:
        slots: vLLM's, at most max_num_seqs; one more stands for the padding of graphs.
        width: W, nodes of a tree with its root.
        depth: of the deepest draft.
        max_spans: X, of one request.

    Attributes:
        trees: what was drafted last.
        chances: [S, W] float32, chance that the draft gave each node after its parent; NaN where it said nothing.
        spans: as commit_rows takes them.
        flags: as slot_queries takes them, the same spans in draft positions among them.
    """

    def __init__(self, slots: int, width: int, depth: int, device: torch.device, max_spans: int = MAX_SPANS):
        self.device, self.depth, self.padding, self.max_spans = device, depth, slots, max_spans
        self.trees = TreeTables.chains(slots + 1, width, device)
        self.chances = torch.full((slots + 1, width), torch.nan, device=device)
        self._about = torch.zeros(slots + 1, 3, dtype=torch.int32, device=device)
        self._spans = torch.zeros(4, slots + 1, max_spans, dtype=torch.int32, device=device)
        self._count = torch.zeros(slots + 1, dtype=torch.int32, device=device)
        self._staged: list[tuple[int, np.ndarray]] = []

    @property
    def spans(self) -> SlotSpans:
        start, end, hidden, _ = self._spans
        return SlotSpans(self._count, start, end, hidden)

    @property
    def flags(self) -> SlotFlags:
        _, _, hidden, compressed = self._spans
        return SlotFlags(self._about[:, 0], self._about[:, 1], SpanTable(compressed, hidden))

    def stage(self, slot: int, spans: Spans, chain: bool) -> None:
        """A request was given a slot; `apply` before the next step."""
        count, most = len(spans), self.max_spans
        row = np.zeros(3 + 4 * most, dtype=np.int32)
        row[:3] = chain, self.depth if count <= most else 0, min(count, most)
        if count:
            tables = row[3:].reshape(4, most)
            hidden = spans.end - spans.start - spans.latents
            tables[3] = FAR
            for table, values in zip(tables, (spans.start, spans.end, hidden, spans.start - (np.cumsum(hidden) - hidden))):
                table[: min(count, most)] = values[:most]
        self._staged.append((slot, row))

    def apply(self) -> None:
        """Copy what was staged to the device, by one transfer that the host does not wait for."""
        if not self._staged:
            return
        packed = to_device(np.stack([np.append(np.int32(slot), row) for slot, row in self._staged]), self.device)
        self._staged.clear()
        slots = packed[:, 0].long()
        self._about.index_copy_(0, slots, packed[:, 1:4])
        self._count.index_copy_(0, slots, packed[:, 3].contiguous())
        self._spans.index_copy_(1, slots, packed[:, 4:].unflatten(1, (4, self.max_spans)).transpose(0, 1).contiguous())
        # Until its first draft, nothing that a slot's last request left may count.
        self.chances.index_fill_(0, slots, torch.nan)
