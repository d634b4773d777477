"""Whether an engine's layers can verify trees: where they cannot, drafts are chains, and the runner says why."""

from vllm.v1.attention.backend import AttentionType
from vllm.v1.attention.backends.triton_attn import TritonAttentionImpl

from vllm_specflash.engine.attention_layers import attention_layers
from vllm_specflash.engine.v2.backend import TreeAttentionImpl

# The widest heads that the kernel's tiles were compiled for.
MAX_HEAD_SIZE = 256


def obstacle(vllm_config, own_layer) -> str | None:
    """What keeps an engine's layers from verifying trees, as a clause; None if nothing does."""
    if vllm_config.parallel_config.use_ubatching:
        return "trees do not run in split batches"
    if vllm_config.model_config.rswa_window is not None:
        return "trees do not run with sliding windows"
    layers = [layer for layer in attention_layers(vllm_config) if layer is not own_layer]
    for layer in layers:
        if not isinstance(layer.impl, TreeAttentionImpl):
            return f"trees need vLLM's Triton attention, and this engine has {type(layer.impl).__name__}"
        missing = unsupported(layer.impl)
        if missing:
            return f"trees do not run with {missing}"
        if layer.kv_cache_torch_dtype != vllm_config.model_config.dtype:
            return f"trees do not run on a KV cache of {layer.kv_cache_torch_dtype}"
    if len({(layer.num_kv_heads, layer.head_size, layer.head_size_v) for layer in layers}) > 1:
        return "the target's layers differ in their heads"
    return None


def unsupported(impl: TritonAttentionImpl) -> str | None:
    """Which property of a layer's attention the kernel does not have."""
    for found, what in (
        (impl.sliding_window != (-1, -1) or impl.chunk_lookback > -1, "sliding windows"),
        (impl.alibi_slopes is not None, "ALiBi"),
        (bool(impl.logits_soft_cap), "capped attention logits"),
        (impl.sinks is not None, "attention sinks"),
        (impl.kv_sharing_target_layer_name is not None, "layers that share keys and values"),
        (impl.attn_type != AttentionType.DECODER, f"attention of type {impl.attn_type}"),
        (impl.head_size > MAX_HEAD_SIZE, f"heads wider than {MAX_HEAD_SIZE}"),
    ):
        if found:
            return what
    return None
