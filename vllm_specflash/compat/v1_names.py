"""What the workers of model runner V1 lean on (engine/v1)."""

from vllm_specflash.compat.name import Name

ENGINE_NAMES = (
    Name("vllm.v1.worker.gpu_worker", "Worker", attributes=("is_driver_worker",)),
    Name("vllm.v1.worker.gpu_worker", "Worker.init_device"),
    Name(
        "vllm.v1.worker.gpu_model_runner",
        "GPUModelRunner",
        attributes=(
            "drafter", "input_batch", "requests", "max_model_len", "max_num_tokens", "model", "num_spec_tokens",
            "lora_config", "inputs_embeds", "use_aux_hidden_state_outputs", "kv_cache_config",
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
        attributes=("req_ids", "num_computed_tokens_cpu", "num_prompt_tokens", "token_ids_cpu", "block_table"),
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
    Name("vllm.v1.worker.block_table", "MultiGroupBlockTable.__getitem__"),
    Name("vllm.v1.worker.block_table", "BlockTable.get_device_tensor", ("num_reqs",)),
    Name("vllm.v1.kv_cache_interface", "KVCacheConfig", attributes=("kv_cache_groups",)),
    Name("vllm.v1.kv_cache_interface", "KVCacheGroupSpec", attributes=("layer_names",)),
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
    Name(
        "vllm.v1.sample.rejection_sampler", "RejectionSampler",
        attributes=("sampler", "is_processed_logprobs_mode", "is_logits_logprobs_mode"),
    ),
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
    Name(
        "vllm.v1.sample.sampler", "Sampler.apply_logits_processors",
        ("logits", "sampling_metadata", "predict_bonus_token"),
    ),
    Name("vllm.v1.sample.sampler", "Sampler.compute_logprobs", ("logits",)),
    Name(
        "vllm.v1.sample.sampler", "Sampler.gather_specific_token_logprobs",
        ("logprobs", "logprob_token_ids", "sampled"),
    ),
    Name("vllm.sampling_params", "SamplingParams", attributes=("all_stop_token_ids", "min_tokens", "max_tokens")),
    Name("vllm.v1.sample.sampler", "Sampler.sample", ("logits", "sampling_metadata", "logprobs_mode_override")),
    Name(
        "vllm.v1.sample.sampler",
        "Sampler.forward",
        ("logits", "sampling_metadata", "predict_bonus_token"),
    ),
    Name("vllm.v1.sample.logits_processor", "LogitsProcessors", attributes=("non_argmax_invariant",)),
    Name("vllm.v1.sample.logits_processor", "MinTokensLogitsProcessor", attributes=("min_toks",)),
    Name("vllm.v1.sample.thinking_budget_state", "ThinkingBudgetStateHolder.has_tracked_requests"),
    Name(
        "vllm.v1.sample.metadata",
        "SamplingMetadata",
        attributes=(
            "temperature", "top_p", "top_k", "generators", "max_num_logprobs", "logitsprocs", "logprob_token_ids",
            "all_greedy", "no_penalties", "allowed_token_ids_mask", "bad_words_token_ids", "thinking_budget_state_holder",
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
        attributes=("attn_groups", "compilation_config"),
    ),
    Name("vllm.v1.worker.gpu_worker", "Worker.determine_available_memory"),
    Name(
        "vllm.v1.kv_cache_interface", "KVCacheConfig", attributes=("num_blocks", "kv_cache_tensors")
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

# Only where the CPU build is: a GPU wheel's module of the same name may not import there.
CPU_NAMES = (
    Name("vllm.model_executor.layers.utils", "dispatch_cpu_unquantized_gemm", ("layer", "remove_weight")),
    Name("vllm.v1.worker.cpu_worker", "CPUWorker.init_device"),
    Name("vllm.v1.worker.cpu_model_runner", "CPUModelRunner.load_model"),
)
