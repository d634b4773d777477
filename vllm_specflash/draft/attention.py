"""The draft's one attention layer: grouped KV heads, rotary positions over the compressed sequence."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vllm_specflash.draft.config import SpecFlashConfig
from vllm_specflash.draft.linear import linear_of
from vllm_specflash.triton_kernels.rope_store import frequencies, rotated


def rotate(heads: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Rotary embedding in the half-split layout of Llama: heads [..., S, n, Dh], positions [..., S], same dtype out."""
    return rotated(heads, positions, frequencies(heads.shape[-1], theta, heads.device))


class DraftAttention(nn.Module):
    """Projections and rotary positions; where keys and values are kept is the caller's business."""

    def __init__(self, config: SpecFlashConfig):
        super().__init__()
        self.num_heads, self.num_kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.rope_theta = config.head_dim, config.rope_theta
        rows = (self.num_heads + 2 * self.num_kv_heads) * self.head_dim
        # One matrix for q, k and v: at batch 1 the number of launches is the cost.
        self.qkv_proj = nn.Linear(config.hidden_size, rows, bias=config.attention_bias)
        self.o_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=config.attention_bias)

    def keep_share(self, rank: int, ranks: int) -> None:
        """Keep the heads of one of `ranks` processes; their outputs then sum up to the layer's.

        Query heads are divided evenly. So are KV heads; where they are fewer than ranks, several keep the same one.
        """
        heads, kv_heads = self.num_heads // ranks, max(1, self.num_kv_heads // ranks)
        qkv, o = self.qkv_proj, self.o_proj
        count = torch.arange(max(self.head_dim, heads), device=o.weight.device)
        queries = count[:heads] + rank * heads
        keys = count[:kv_heads] + self.num_heads + rank * self.num_kv_heads // ranks
        kept = torch.cat((queries, keys, keys + self.num_kv_heads))
        kept, queries = ((self.head_dim * n[:, None] + count[: self.head_dim]).flatten() for n in (kept, queries))
        self.qkv_proj = linear_of(qkv.weight[kept], None if qkv.bias is None else qkv.bias[kept])
        # Of all the outputs that are summed, one has the bias.
        self.o_proj = linear_of(o.weight[:, queries], o.bias if rank == 0 else None)
        self.num_heads, self.num_kv_heads = heads, kv_heads

    def heads(self, x: Tensor) -> Tensor:
        """x [..., D] -> queries, keys and values [..., H + 2 Hkv, Dh], none of them rotated yet."""
        return self.qkv_proj(x).unflatten(-1, (-1, self.head_dim))

    def project(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x [..., D], draft positions [...] -> q [..., H, Dh], k and v [..., Hkv, Dh]; q and k are rotated."""
        turning, v = self.heads(x).split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=-2)
        q, k = rotate(turning, positions, self.rope_theta).split((self.num_heads, self.num_kv_heads), dim=-2)
        return q, k, v

    def output(self, attended: Tensor) -> Tensor:
        """Attention result [..., H * Dh] (or [..., H, Dh]) -> [..., D]."""
        if attended.shape[-1] == self.head_dim and attended.dim() > 1 and attended.shape[-2] == self.num_heads:
            attended = attended.flatten(-2)
        return self.o_proj(attended)


def dense_causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention over whole sequences, scale Dh^-0.5: q [B, S, H, Dh], k and v [B, S, Hkv, Dh] -> [B, S, H, Dh]."""
    q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
