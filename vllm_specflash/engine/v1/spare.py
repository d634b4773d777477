"""Blocks of the KV cache that vLLM's scheduler does not know of: side paths of trees are verified in them."""

from copy import deepcopy

# Of the whole cache, at most this part, and no more blocks than trees of one step ever fill.
SHARE, MOST, FEWEST = 50, 32, 4


def choose_spare_blocks(num_blocks: int) -> int:
    """Of a cache of so many blocks."""
    return min(MOST, max(FEWEST, num_blocks // SHARE))


def with_spare_blocks(kv_cache_config, spare: int):
    """A copy of vLLM's KVCacheConfig with `spare` more blocks at the end of every layer's."""
    wider = deepcopy(kv_cache_config)
    known = kv_cache_config.num_blocks
    wider.num_blocks = known + spare
    for tensor in wider.kv_cache_tensors:
        tensor.size = tensor.size // known * wider.num_blocks
        # Layer after layer: each one's region grows. Block after block (or, in older releases, one tensor a layer): nothing more.
        if getattr(tensor, "layer_stride", 0) > getattr(tensor, "block_stride", 0):
            tensor.layer_stride = tensor.layer_stride // known * wider.num_blocks
            tensor.offset = tensor.offset // known * wider.num_blocks
    return wider


def one_group(specs: dict) -> bool:
    """Whether all layers share one block table, given vLLM's KVCacheSpec by layer; trees need that."""
    kinds = {(type(spec), spec.block_size) for spec in specs.values()}
    return len(kinds) == 1
