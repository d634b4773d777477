"""Tiles of query rows of tree_attention.py: how large they are, how many are launched, and which one a program has.

A request has a row per node and head of a group; a tile is BLOCK_M of them, all of one request and one KV head.
"""

import torch

from ._triton import tl, triton


def tile_config(rows: int, head_dim: int, dtype: torch.dtype) -> dict[str, int]:
    """Tile sizes for so many query rows per KV head; chosen to spill on none of sm_80, sm_90 and sm_100."""
    block_d, wanted = triton.next_power_of_2(head_dim), max(16, triton.next_power_of_2(rows))
    if dtype == torch.float32:
        return dict(BLOCK_M=16, BLOCK_N=16, BLOCK_D=block_d, num_warps=4, num_stages=2)
    block_m, block_n = min(wanted, 128 if block_d < 128 else 64), 64 if block_d <= 128 else 16
    num_warps = 8 if block_m * block_d >= 16 * 128 else 4
    return dict(BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_D=block_d, num_warps=num_warps, num_stages=2)


def launched_tiles(rows: int, requests: int, widest: int, group: int, block_m: int) -> tuple[int, int]:
    """Row tiles per KV head for N nodes of R requests, and how many of them are each request's (0: found by bisection).

    Every request as many as the widest could need, or, where that is less, the most that any division of N nodes between R
    requests needs: a bound of `widest` far above what a request has, as in a batch of single nodes, costs nothing.
    """
    each = triton.cdiv(widest * group, block_m)
    shared = rows * group // block_m + requests
    return (each * requests, each) if each * requests <= shared else (shared, 0)


@triton.jit
def tile_of_program(index, cu_nodes, requests, tiles_per_request, ROWS: tl.constexpr, BLOCK_M: tl.constexpr):
    """(request, tile) of a program, tile beyond the request's last where nothing is left to do.

    tiles_per_request 0: request r's tiles begin at cu_nodes[r] * ROWS // BLOCK_M + r, far enough apart for any division of
    the nodes between the requests, and the request is found by bisection.
    """
    if tiles_per_request > 0:
        request = index // tiles_per_request
        begin = request * tiles_per_request
    else:
        request = 0
        after = requests
        while after - request > 1:
            middle = (request + after) // 2
            if tl.load(cu_nodes + middle) * ROWS // BLOCK_M + middle <= index:
                request = middle
            else:
                after = middle
        begin = tl.load(cu_nodes + request) * ROWS // BLOCK_M + request
    return request, index - begin
