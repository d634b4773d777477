"""The attention backend that runs trees on GPUs: vLLM's Triton one, with tree_attention for the rows of trees.

Registered with vLLM as CUSTOM (plugin.py), and chosen only for engines that ask for trees. Rows that belong to no tree, and
all rows of a step in which no tree branches, are vLLM's own.
"""

from vllm.logger import init_logger
from vllm.v1.attention.backend import AttentionCGSupport, AttentionType
from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadataBuilder,
)

from vllm_specflash.engine.attention import attention_layers
from vllm_specflash.engine.node_slots import NodeVerification

logger = init_logger("vllm.specflash")

# The widest heads that the kernel's tiles were compiled for.
MAX_HEAD_SIZE = 256


class TreeAttentionImpl(TritonAttentionImpl):
    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs):
        trees = getattr(attn_metadata, "trees", None)
        if trees is None or trees.rows is not None:
            super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        if trees is not None:
            trees.attend(query, kv_cache, self.scale, output)
        return output

    def fused_output_quant_supported(self, quant_key) -> bool:
        # Rows of trees would have to be quantised like the others.
        return False


class TreeMetadataBuilder(TritonAttentionMetadataBuilder):
    """Its metadata carry the step's DeviceTrees, or None, as `trees`.

    Attributes:
        verification: set by set_up_trees.
    """

    verification: NodeVerification | None = None

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        # Which rows are trees' changes with every step, and a full graph would have it fixed: attention runs between graphs.
        if obstacle(vllm_config) is None:
            return AttentionCGSupport.NEVER
        return super().get_cudagraph_support(vllm_config, kv_cache_spec)

    def build(self, common_prefix_len, common_attn_metadata, *args, **kwargs):
        metadata = super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)
        if self.verification is not None:
            metadata.trees = self.verification.on_device(common_attn_metadata.block_table_tensor)
        return metadata


class TreeAttentionBackend(TritonAttentionBackend):
    """Keeps the name of vLLM's: all that vLLM knows of its Triton backend is true of this one."""

    @staticmethod
    def get_impl_cls() -> type[TreeAttentionImpl]:
        return TreeAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[TreeMetadataBuilder]:
        return TreeMetadataBuilder


def set_up_trees(runner) -> None:
    """Let one of our model runners verify trees, once its KV cache is there; or say in the log why it drafts chains."""
    why_not = obstacle(runner.vllm_config)
    if why_not is None and len(runner.kv_cache_config.kv_cache_groups) != 1:
        why_not = "the target has several groups of KV cache"
    if why_not is not None:
        logger.warning_once("SpecFLASH drafts chains only: %s.", why_not)
        return
    # The draft's own layer is written and read by the draft alone.
    layers = [layer for layer in attention_layers(runner.vllm_config) if layer is not runner.drafter.cache.layer]
    verification = NodeVerification(layers)
    for builder in (b for groups in runner.attn_groups for group in groups for b in group.metadata_builders):
        builder.verification = verification
    runner.verify_trees_with(verification)


def obstacle(vllm_config) -> str | None:
    """What keeps an engine's layers from running trees, as a clause; None if nothing does."""
    if vllm_config.parallel_config.use_ubatching:
        return "trees do not run in split batches"
    if vllm_config.model_config.rswa_window is not None:
        return "trees do not run with sliding windows"
    layers = attention_layers(vllm_config)
    for layer in layers:
        if not isinstance(layer.impl, TreeAttentionImpl):
            return f"on GPUs trees need vLLM's Triton attention, and this engine has {type(layer.impl).__name__}"
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
