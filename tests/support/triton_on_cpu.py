"""vLLM's Triton attention, and ours that extends it, on a CPU: all of it but the two kernels, which torch stands in for.

Engines of this process then run trees the way they do on GPUs: nodes in consecutive slots of the Triton backend's cache,
tree_attention (its torch path) for their rows, kv_compact after acceptance.
"""

import torch
import torch.nn.functional as F
from vllm.v1.attention import selector
from vllm.v1.attention.backends import registry, triton_attn

from vllm_specflash import plugin
from vllm_specflash.engine import cpu_worker
from vllm_specflash.engine.tree_backend import set_up_trees


def causal_attention(*, q, k, v, out, cu_seqlens_q, seqused_k, softmax_scale, block_table, **_) -> None:
    """Stands in for `unified_attention`: q, out [T, H, Dh]; k, v [num_blocks, block_size, Hkv, Dh]."""
    block_size, group = k.shape[1], q.shape[1] // k.shape[2]
    bounds = cu_seqlens_q.tolist()
    for request, length in enumerate(seqused_k.tolist()):
        start, stop = bounds[request], bounds[request + 1]
        positions = torch.arange(length)
        slots = block_table[request, positions // block_size].long(), positions % block_size
        keys, values = (cache[slots].transpose(0, 1).repeat_interleave(group, 0) for cache in (k, v))
        seen = positions <= positions[length - (stop - start) :, None]
        rows = q[start:stop].transpose(0, 1)
        out[start:stop] = F.scaled_dot_product_attention(rows, keys, values, seen, scale=softmax_scale).transpose(0, 1)


def store(key, value, key_cache, value_cache, slot_mapping, *_) -> None:
    """Stands in for `triton_reshape_and_cache_flash`: rows [T, Hkv, Dh] to the slots that are not -1."""
    rows = torch.nonzero(slot_mapping >= 0)[:, 0]
    slots, block_size = slot_mapping[rows], key_cache.shape[1]
    key_cache[slots // block_size, slots % block_size] = key[rows]
    value_cache[slots // block_size, slots % block_size] = value[rows]


class NodeSlotRunner(cpu_worker.SpecFlashCPUModelRunner):
    """Sets trees up as the GPU's runner does, and takes no spare blocks."""

    num_spare_blocks = property(lambda self: 0, lambda self, wanted: None)

    def initialize_kv_cache(self, *args, **kwargs):
        super().initialize_kv_cache(*args, **kwargs)
        if self.speculative_config.specflash.tree is not False:
            set_up_trees(self)


def use_triton_attention(monkeypatch) -> None:
    """Every engine that is built before `monkeypatch` is undone has our backend in place of the CPU's."""
    monkeypatch.setattr(triton_attn, "unified_attention", causal_attention)
    monkeypatch.setattr(triton_attn, "triton_reshape_and_cache_flash", store)
    monkeypatch.setitem(registry._ATTN_OVERRIDES, registry.AttentionBackendEnum.CPU_ATTN, plugin.TREE_BACKEND)
    monkeypatch.setattr(selector, "_cached_get_attn_backend", selector._cached_get_attn_backend.__wrapped__)
    monkeypatch.setattr(cpu_worker, "SpecFlashCPUModelRunner", NodeSlotRunner)
