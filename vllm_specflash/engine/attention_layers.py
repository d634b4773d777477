"""vLLM's attention layers of an engine."""

from vllm.model_executor.layers.attention import Attention


def attention_layers(vllm_config) -> list[Attention]:
    """All attention layers of an engine, the draft's included, once its model is loaded."""
    return [
        layer
        for layer in vllm_config.compilation_config.static_forward_context.values()
        if isinstance(layer, Attention)
    ]
