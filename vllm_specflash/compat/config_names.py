"""Wrapped or read in every process: vLLM's arguments and configurations."""

from vllm_specflash.compat.name import Name

CONFIG_NAMES = (
    Name(
        "vllm.engine.arg_utils",
        "EngineArgs",
        attributes=("speculative_config", "worker_cls", "kv_cache_dtype", "block_size"),
    ),
    Name("vllm.engine.arg_utils", "EngineArgs.add_cli_args", ("parser",)),
    Name("vllm.engine.arg_utils", "EngineArgs.create_engine_config"),
    Name(
        "vllm.engine.arg_utils",
        "EngineArgs.create_speculative_config",
        ("target_model_config", "target_parallel_config"),
    ),
    Name(
        "vllm.config.speculative",
        "SpeculativeConfig",
        attributes=("method", "model", "num_speculative_tokens", "target_model_config", "target_parallel_config"),
    ),
    Name("vllm.config.utils", "config"),
    Name(
        "vllm.config.model",
        "ModelConfig",
        attributes=(
            "model", "revision", "dtype", "hf_config", "runner_type", "is_encoder_decoder", "is_hybrid",
            "is_attention_free", "use_mla", "get_hidden_size", "get_vocab_size", "get_total_num_kv_heads",
            "get_head_size", "get_total_num_hidden_layers", "served_model_name",
        ),
    ),
    Name(
        "vllm.config.parallel",
        "ParallelConfig",
        attributes=(
            "pipeline_parallel_size", "tensor_parallel_size", "decode_context_parallel_size", "data_parallel_index",
        ),
    ),
    Name("vllm.config.vllm", "VllmConfig", attributes=("use_v2_model_runner",)),
    Name("vllm.config.vllm", "VllmConfig.__post_init__"),
    Name("vllm.config.vllm", "VllmConfig._get_v2_model_runner_unsupported_features"),
    # What compiled forwards are kept under.
    Name("vllm.config.speculative", "SpeculativeConfig.compute_hash"),
    # And what was measured of an engine.
    Name("vllm.config.vllm", "VllmConfig.compute_hash"),
    # Methods that vLLM schedules asynchronously.
    Name("vllm.config.vllm", "NgramGPUTypes"),
)  # fmt: skip

# What a draft that sees several layers asks of its target (engine/target_layers.py).
LAYER_NAMES = (
    Name("vllm.model_executor.model_loader.utils", "get_model_cls", ("model_config",)),
    Name("vllm.model_executor.models.interfaces", "supports_eagle3", ("model",)),
    Name("vllm.model_executor.models.interfaces", "SupportsEagle3.set_aux_hidden_state_layers", ("layers",)),
    Name("vllm.model_executor.models.interfaces", "EagleModelMixin", attributes=("aux_hidden_state_layers",)),
    Name(
        "vllm.model_executor.models.interfaces", "EagleModelMixin._maybe_add_hidden_state",
        ("aux_hidden_states", "layer_idx", "hidden_states", "residual"),
    ),
)  # fmt: skip
