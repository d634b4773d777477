"""What makes the draft's layer a whole decoder layer: a gated feed-forward block, as Llama's."""

import torch.nn.functional as F
from torch import Tensor, nn


class SilentLinear(nn.Linear):
    """Its weight begins at zero, so that an untrained block changes nothing."""


class FeedForward(nn.Module):
    """W_d (SiLU(W_g x') * W_u x') of x' = RMSNorm(x). Rows do not meet: no keys and values of its own, unlike a second attention layer."""

    def __init__(self, hidden_size: int, width: int, eps: float):
        super().__init__()
        self.norm = nn.RMSNorm(hidden_size, eps=eps)
        # One matrix for gate and values: at batch 1 the number of launches is the cost.
        self.gate_up_proj = nn.Linear(hidden_size, 2 * width, bias=False)
        self.down_proj = SilentLinear(width, hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D], to be added to x."""
        gate, up = self.gate_up_proj(self.norm(x)).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)
