"""A tree's attention by libraries that know no pages: keys and values are gathered to dense tensors beforehand."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .tree_attention import visible_nodes


def dense(cache: Tensor, args: dict) -> Tensor:
    """Keys or values of every request as [R, Hkv, L, Dh], for attention that knows no pages."""
    requests, pages = args["block_table"].shape
    length = int(args["context_lens"][0]) + args["max_num_nodes"]
    gathered = cache[args["block_table"].long()].view(requests, -1, *cache.shape[2:])[:, :length]
    return gathered.transpose(1, 2).contiguous()


def sdpa(args: dict) -> Callable[[], Tensor]:
    """The same tree through SDPA with a dense mask."""
    requests, nodes = args["context_lens"].shape[0], args["max_num_nodes"]
    key, value = dense(args["key_cache"], args), dense(args["value_cache"], args)
    query = args["query"].view(requests, nodes, *args["query"].shape[1:]).transpose(1, 2).contiguous()
    mask = torch.ones(requests, 1, nodes, key.shape[2], dtype=torch.bool, device=query.device)
    mask[..., -nodes:] = visible_nodes(args["ancestors"], nodes).view(requests, 1, nodes, nodes)
    return lambda: F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=args["scale"], enable_gqa=key.shape[1] != query.shape[1]
    )


def flex(args: dict) -> Callable[[], Tensor]:
    """The same tree through a compiled FlexAttention, its block mask built beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    requests, nodes = args["context_lens"].shape[0], args["max_num_nodes"]
    key, value = dense(args["key_cache"], args), dense(args["value_cache"], args)
    query = args["query"].view(requests, nodes, *args["query"].shape[1:]).transpose(1, 2).contiguous()
    context, length = key.shape[2] - nodes, key.shape[2]
    seen = visible_nodes(args["ancestors"], nodes).view(requests, nodes, nodes)

    def visible(batch, head, q, k):
        return (k < context) | seen[batch, q, (k - context).clamp_min(0)]

    mask = create_block_mask(visible, requests, None, nodes, length, device=query.device)
    compiled = torch.compile(flex_attention)
    gqa = key.shape[1] != query.shape[1]
    return lambda: compiled(query, key, value, block_mask=mask, scale=args["scale"], enable_gqa=gqa)
