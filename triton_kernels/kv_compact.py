"""KV compaction: after acceptance, the accepted nodes' keys and values move up to where a chain would have put them.

With base the root's position and nodes i_1 < ... < i_a accepted (tree_accept), in every layer, for keys and for values:

    cache[position base + k] = cache[position base + i_k]        k = 1 .. a

Every parent comes before its children, so i_k >= k: done in the order of k, no source is overwritten before it was read.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ._triton import launch, launches, tl, triton

# Units of eight bytes or of one element that one program moves per accepted node.
UNITS = 512


class CacheTable(NamedTuple):
    """Every layer's caches as one table, so that one launch reaches all of them; built once per engine."""

    caches: tuple[Tensor, ...]
    """Views [num_blocks, block_size, Hkv, Dh], any strides; they keep the memory alive."""
    table: Tensor
    """[caches, 5] int64 on their device: address, then the four strides in units."""
    unit: int
    """Bytes moved at a time: 8 where the layout allows it, otherwise one element."""


def cache_table(caches: Sequence[Tensor]) -> CacheTable:
    """caches: the K and the V view of every layer, [num_blocks, block_size, Hkv, Dh] each, one shape and dtype.

    Raises ValueError when they are not alike.
    """
    first = caches[0]
    if any((c.shape, c.dtype, c.device) != (first.shape, first.dtype, first.device) for c in caches):
        raise ValueError("KV compaction needs caches of one shape, dtype and device in every layer.")
    size = first.element_size()
    per_unit = 8 // size
    wide = first.shape[3] % per_unit == 0 and all(
        c.stride(3) == 1 and c.data_ptr() % 8 == 0 and all(s % per_unit == 0 for s in c.stride()[:3]) for c in caches
    )
    unit = 8 if wide else size
    rows = []
    for cache in caches:
        outer = [stride * size // unit for stride in cache.stride()[:3]]
        rows.append([cache.data_ptr(), *outer, 1 if wide else cache.stride(3)])
    return CacheTable(tuple(caches), torch.tensor(rows, dtype=torch.int64, device=first.device), unit)


def kv_compact_torch(caches: CacheTable, block_table: Tensor, base: Tensor, nodes: Tensor, lengths: Tensor) -> None:
    """Torch path of `kv_compact`: one indexed copy per cache of all rows that really move."""
    k = torch.arange(1, nodes.shape[1] + 1, device=nodes.device)
    request, step = ((k <= lengths.unsqueeze(1)) & (nodes != k)).nonzero(as_tuple=True)
    if request.numel() == 0:
        return
    block_size = caches.caches[0].shape[1]
    source = base[request] + nodes[request, step]
    target = base[request] + step + 1
    source_block, target_block = (block_table[request, at // block_size].long() for at in (source, target))
    source_offset, target_offset = source % block_size, target % block_size
    for cache in caches.caches:
        # Indexing copies all sources before anything is written, which makes overlaps harmless here.
        cache[target_block, target_offset] = cache[source_block, source_offset]


@triton.jit(do_not_specialize=["stride_block_table", "stride_nodes"])
def kv_compact_kernel(
    table, block_table, base, nodes, lengths, stride_block_table, stride_nodes,
    BLOCK_SIZE: tl.constexpr, HEAD_UNITS: tl.constexpr, ROW_UNITS: tl.constexpr, UNIT: tl.constexpr, UNITS: tl.constexpr,
):  # fmt: skip
    """One cache, one request and UNITS units of every row; the rows in order, each unit always by the same thread."""
    request = tl.program_id(1).to(tl.int64)
    entry = table + tl.program_id(2) * 5
    address = tl.load(entry)
    stride_block, stride_pos = tl.load(entry + 1), tl.load(entry + 2)
    u = tl.program_id(0) * UNITS + tl.arange(0, UNITS)
    if UNIT == 1:
        cache = address.to(tl.pointer_type(tl.int8))
    elif UNIT == 2:
        cache = address.to(tl.pointer_type(tl.int16))
    elif UNIT == 4:
        cache = address.to(tl.pointer_type(tl.int32))
    else:
        cache = address.to(tl.pointer_type(tl.int64))
    cache += (u // HEAD_UNITS) * tl.load(entry + 3) + (u % HEAD_UNITS) * tl.load(entry + 4)

    root = tl.load(base + request)
    blocks = block_table + request * stride_block_table
    for step in range(tl.load(lengths + request)):
        node = tl.load(nodes + request * stride_nodes + step)
        if node != step + 1:
            source, target = root + node, root + step + 1
            source_block = tl.load(blocks + source // BLOCK_SIZE).to(tl.int64)
            target_block = tl.load(blocks + target // BLOCK_SIZE).to(tl.int64)
            row = tl.load(
                cache + source_block * stride_block + (source % BLOCK_SIZE) * stride_pos, mask=u < ROW_UNITS, other=0
            )
            tl.store(cache + target_block * stride_block + (target % BLOCK_SIZE) * stride_pos, row, mask=u < ROW_UNITS)


def kv_compact_triton(caches: CacheTable, block_table: Tensor, base: Tensor, nodes: Tensor, lengths: Tensor) -> None:
    """Launcher of the kernel: all layers, keys and values, in one launch. Compiled once per shape of the caches' blocks."""
    _, block_size, num_kv_heads, head_dim = caches.caches[0].shape
    head_units = head_dim * caches.caches[0].element_size() // caches.unit
    units = num_kv_heads * head_units
    block = min(UNITS, triton.next_power_of_2(units))
    if lengths.shape[0] and nodes.shape[1]:
        launch(kv_compact_kernel, (triton.cdiv(units, block), lengths.shape[0], len(caches.caches)),
            caches.table, block_table, base, nodes, lengths, block_table.stride(0), nodes.stride(0),
            BLOCK_SIZE=block_size, HEAD_UNITS=head_units, ROW_UNITS=units, UNIT=caches.unit, UNITS=block, num_warps=4,
        )  # fmt: skip


def kv_compact(caches: CacheTable, block_table: Tensor, base: Tensor, nodes: Tensor, lengths: Tensor) -> None:
    """Move, in place and in every cache, each request's accepted rows to positions base + 1 .. base + a.

    caches: of `cache_table`; block_table [R, max_blocks] int32; base [R] int32, each root's position; nodes [R, W] int32, the
    accepted nodes in ascending order with nodes[r, k - 1] >= k, as tree_accept gives them, anything after the first
    lengths[r]; lengths [R] int32. Requests must not share the blocks written to.
    """
    compact = kv_compact_triton if launches(block_table) else kv_compact_torch
    compact(caches, block_table, base, nodes, lengths)
