"""Counts that only the device knows, read by the host without ever waiting for them."""

import torch

from vllm_specflash.engine.stats import DraftStats


class DeviceCounters:
    """
    Attributes:
        totals: [3] int64 on the device, as tree_accept counts.
    """

    def __init__(self, device: torch.device):
        self.totals = torch.zeros(3, dtype=torch.int64, device=device)
        self._copied = torch.zeros(3, dtype=torch.int64, pin_memory=self.totals.is_cuda)

    def fill(self, stats: DraftStats, wait: bool = False) -> None:
        """Write them into `stats`; without `wait` as they were some calls ago, when the last copy that is through was begun."""
        if wait:
            self._copied.copy_(self.totals)
        stats.decodes, stats.decoded_tokens, stats.moved = self._copied.tolist()
        if not wait:
            self._copied.copy_(self.totals, non_blocking=True)
