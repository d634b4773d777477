"""The draft layer's pages in vLLM's paged KV cache."""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft.attention import DraftAttention

# KV cache layouts, by vLLM's names, in which a layer's blocks lie one after the other: what the draft's pages are views of.
KV_CACHE_LAYOUTS = ("LBNHC", "LBHNC", "NHD", "HND")


class DraftCache:
    """Registers an attention layer with vLLM so that it allocates, shares, evicts and copies the draft's KV.

    vLLM never calls the layer: nobody but us reads its pages, so a page may be laid out as the draft likes. Where
    vLLM's layout keeps a block's keys and values together, a page is [block_size, 2, Hkv, Dh], with Hkv this rank's.

    A row is made of the token after its position too, so that of a block's last position holds the token that the block's first
    reader had next. A request that shares the block and goes on otherwise sees one row that is not its own: its chances differ
    a little, its answer never does.
    """

    def __init__(self, vllm_config: VllmConfig, draft: DraftAttention):
        layers = vllm_config.model_config.get_total_num_hidden_layers()
        self.layer_name = f"specflash.layers.{layers}.attn"
        self._cache_config = vllm_config.cache_config
        self.num_kv_heads, self.head_dim = draft.num_kv_heads, draft.head_dim
        self.layer = Attention(
            num_heads=draft.num_heads,
            head_size=draft.head_dim,
            scale=draft.head_dim**-0.5,
            num_kv_heads=draft.num_kv_heads,
            cache_config=vllm_config.cache_config,
            prefix=self.layer_name,
        )

    @property
    def allocated(self) -> bool:
        """False before vLLM has bound the cache (during profiling)."""
        return self._bound().numel() > 0

    @property
    def keys(self) -> Tensor:
        """[num_slots, Hkv, Dh] view."""
        return self._views[0]

    @property
    def values(self) -> Tensor:
        """[num_slots, Hkv, Dh] view."""
        return self._views[1]

    @property
    def block_size(self) -> int:
        """Slots per entry of the block table."""
        return self._views[2]

    def rebind(self) -> None:
        """vLLM has bound another cache: what was derived from the last one is void.

        Raises:
            SpecFlashError: its layout is none that the draft's pages can be views of.
        """
        self.__dict__.pop("_views", None)
        layout = getattr(self._cache_config, "kv_cache_layout", None)
        if layout is not None and layout not in KV_CACHE_LAYOUTS:
            raise SpecFlashError(
                f"SpecFLASH does not support the KV cache layout {layout}: set VLLM_KV_CACHE_LAYOUT to one of "
                f"{', '.join(KV_CACHE_LAYOUTS)}."
            )

    def group_in(self, kv_cache_config) -> int:
        """Which group of vLLM's KV cache, and so which of its block tables, the draft's layer belongs to."""
        groups = kv_cache_config.kv_cache_groups
        return next(index for index, group in enumerate(groups) if self.layer_name in group.layer_names)

    def slots(self, block_table: Tensor, requests: Tensor, positions: Tensor) -> Tensor:
        """Slots of target positions [...] of requests [...], by the batch's block table [R, max_blocks]."""
        size = self.block_size
        if block_table.is_cpu:
            # numpy's operations on a few numbers take a third of the time of torch's.
            table, requests, positions = (part.numpy() for part in (block_table, requests, positions))
            return torch.from_numpy(table[requests, positions // size].astype(np.int64) * size + positions % size)
        return block_table[requests, positions // size].long() * size + positions % size

    def write(self, slots: Tensor, keys: Tensor, values: Tensor) -> None:
        """Store keys and values [T, Hkv, Dh] at slots [T] int64."""
        self.keys[slots] = keys
        self.values[slots] = values

    def _bound(self) -> Tensor:
        cache = self.layer.kv_cache
        # Older releases keep one tensor per virtual engine.
        return cache if isinstance(cache, Tensor) else (cache[0] if len(cache) else torch.empty(0))

    @cached_property
    def _views(self) -> tuple[Tensor, Tensor, int]:
        cache = self._bound()
        order = sorted(range(cache.dim()), key=lambda dim: -cache.stride(dim))
        physical = cache.permute(order)
        # [2, blocks, ...] keeps all keys before all values (no cache has just two blocks); otherwise blocks lead.
        halved = physical.dim() == 5 and physical.shape[0] == 2
        num_blocks = physical.shape[1 if halved else 0]
        block_size = cache.numel() // (num_blocks * 2 * self.num_kv_heads * self.head_dim)
        rows = num_blocks * block_size, self.num_kv_heads, self.head_dim
        if not physical.is_contiguous():
            raise RuntimeError(f"The KV cache of {self.layer_name} is not one contiguous tensor: {cache.stride()}.")
        if halved:
            keys, values = physical.view(2, *rows)
        else:
            keys, values = physical.view(rows[0], 2, *rows[1:]).unbind(1)
        return keys, values, block_size
