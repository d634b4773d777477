"""What the workers of model runner V2 lean on (engine/v2)."""

from vllm_specflash.compat.name import Name

V2_NAMES = (
    Name("vllm.v1.worker.gpu_worker", "Worker", attributes=("is_driver_worker", "use_v2_model_runner")),
    Name("vllm.v1.worker.gpu_worker", "Worker.init_device"),
    Name("vllm.v1.worker.gpu_worker", "Worker.compile_or_warm_up_model"),
    Name("vllm.v1.worker.gpu_worker", "Worker.sleep", ("level",)),
    Name("vllm.v1.worker.gpu.model_runner", "init_speculator", ("vllm_config", "device")),
    Name("vllm.v1.worker.gpu.model_runner", "RequestState"),
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
    Name("vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm", ("layer", "remove_weight")),
    Name("vllm.v1.worker.cpu_worker", "CPUWorker.init_device"),
    Name("vllm.v1.worker.cpu.model_runner", "CPUModelRunner"),
    Name("vllm.v1.attention.selector", "_cached_get_attn_backend"),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.CPU_ATTN"),
    Name("vllm.v1.attention.backends.registry", "AttentionBackendEnum.clear_override"),
)

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
