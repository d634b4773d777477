"""What our V2 model runner adds to vLLM's: trees in its batches, and our speculator in place of its own."""

import torch
from vllm.logger import init_logger
from vllm.v1.worker.gpu import model_runner

from vllm_specflash.engine.attention_layers import attention_layers
from vllm_specflash.engine.hooks import replaced
from vllm_specflash.engine.metrics import WorkerMetrics
from vllm_specflash.engine.sequential import reads_drafts_in_order
from vllm_specflash.engine.synthetic import conditional
from vllm_specflash.engine.target_layers import have_layers_told
from vllm_specflash.engine.v2.backend import TreeMetadataBuilder, keys_and_values
from vllm_specflash.engine.v2.lora import NodeLoraState
from vllm_specflash.engine.v2.selection import obstacle
from vllm_specflash.engine.v2.speculator import SpecFlashSpeculator
from vllm_specflash.engine.v2.texts import texts_on_device
from vllm_specflash.engine.v2.verifier import TreeVerifier
from vllm_specflash.triton_kernels.kv_compact import CacheTable, cache_table, kv_compact
from vllm_specflash.triton_kernels.tree_rows import tree_rows

logger = init_logger("vllm.specflash")

# Metrics are published once in so many steps.
STEPS_PER_REPORT = 32


class SpecFlashRunnerMixin:
    """Goes before vLLM's V2 GPUModelRunner, or its CPU one, in the bases."""

    speculator: SpecFlashSpeculator

    def __init__(self, vllm_config, device: torch.device):
        with replaced(model_runner, "init_speculator", SpecFlashSpeculator), texts_on_device(vllm_config):
            super().__init__(vllm_config, device)
        self.speculator.req_states = self.req_states
        self.lora_state.__class__ = NodeLoraState
        # Set by the worker that speaks for the engine, once it is warm.
        self.metrics: WorkerMetrics | None = None
        self._caches: CacheTable | None = None

    def load_model(self, *args, **kwargs):
        super().load_model(*args, **kwargs)
        speculator = self.speculator
        speculator.load(self.model)
        have_layers_told(self)
        self.rejection_sampler = TreeVerifier.replacing(
            self.rejection_sampler, speculator.rows, speculator.width, speculator.counters.totals
        )
        rates = speculator.options.synthetic_acceptance
        if rates is not None:
            self.rejection_sampler.synthetic = torch.tensor(conditional(rates), device=self.device)
        encoder = getattr(self.model_state, "encoder_runner", None)
        if encoder is not None and speculator.draft.config.pools_embeddings:
            speculator.embeddings = torch.empty_like(encoder.inputs_embeds)
        # Installed ones are loaded without being asked for. What they read of drafts they read in order.
        processors = [*(self.model_config.logits_processors or ()), *getattr(self.sampler, "logits_processors", ())]
        self._orders_all = any(not type(processor).__module__.startswith("vllm.") for processor in processors)
        self._follow_inputs()

    def _follow_inputs(self) -> None:
        """Just before the target runs: M-RoPE's positions, which are made after ours, and what the draft pools of its inputs."""
        prepare, back, embeddings = self.model_state.prepare_inputs, self.speculator.rows.back, self.speculator.embeddings

        def prepare_inputs(input_batch, req_states):
            inputs, rows = prepare(input_batch, req_states), slice(input_batch.num_tokens)
            if "positions" in inputs:
                # Text counts alike in all three of M-RoPE's rows.
                inputs["positions"][..., rows] -= back[rows]
            if embeddings is not None and input_batch.is_prefilling_np.any():
                # On GPUs the target's layers add to their inputs in place.
                embeddings[rows].copy_(self.model_state.encoder_runner.inputs_embeds[rows])
            return inputs

        self.model_state.prepare_inputs = prepare_inputs

    def initialize_kv_cache(self, kv_cache_config, *args, **kwargs):
        super().initialize_kv_cache(kv_cache_config, *args, **kwargs)
        speculator, cache = self.speculator, self.speculator.draft.cache
        cache.rebind()
        speculator.block_table = self.block_tables.input_block_tables[cache.group_in(self.kv_cache_config)]
        wanted = self.speculative_config.trees
        why_not = obstacle(self.vllm_config, cache.layer) if wanted else "the option `tree` says so"
        if why_not is None and len(self.kv_cache_config.kv_cache_groups) > 1:
            why_not = "the target has several groups of KV cache"
        speculator.runs_trees = why_not is None
        if why_not is not None:
            logger.warning_once("SpecFLASH drafts chains only: %s.", why_not)
            return
        layers = [layer for layer in attention_layers(self.vllm_config) if layer is not cache.layer]
        self._caches = cache_table([view for layer in layers for view in keys_and_values(layer.kv_cache)])
        for builder in (b for groups in self.attn_groups for group in groups for b in group.metadata_builders):
            if isinstance(builder, TreeMetadataBuilder):
                builder.rows, builder.width = speculator.rows, speculator.width

    def add_requests(self, scheduler_output) -> None:
        super().add_requests(scheduler_output)
        speculator = self.speculator
        speculator.forget(scheduler_output.finished_req_ids)
        for request in scheduler_output.scheduled_new_reqs:
            slot = self.req_states.req_id_to_index[request.req_id]
            chain = self._orders_all or reads_drafts_in_order(request.sampling_params)
            speculator.add_request(slot, request.req_id, request.mm_features, chain)
        speculator.tables.apply()

    def prepare_attn(self, input_batch):
        # Slots come first, from linear positions; then the nodes' positions become those of their depths.
        prepared = super().prepare_attn(input_batch)
        self.lora_state.node_bounds = input_batch.cu_num_logits_np
        speculator = self.speculator
        tree_rows(
            input_batch.idx_mapping,
            input_batch.query_start_loc,
            input_batch.cu_num_logits,
            input_batch.seq_lens,
            self.req_states.prefill_len.gpu,
            self.input_buffers.positions,
            speculator.tables.trees,
            speculator.rows,
        )
        return prepared

    def sample(self, hidden_states, input_batch, grammar_output):
        verifier, speculator = self.rejection_sampler, self.speculator
        verifier.acceptance = None
        output = super().sample(hidden_states, input_batch, grammar_output)
        acceptance = speculator.acceptance = verifier.acceptance
        if acceptance is not None:
            requests = input_batch.num_reqs
            if self._caches is not None:
                kv_compact(
                    self._caches,
                    self.block_tables.input_block_tables[0][:requests],
                    speculator.rows.roots[:requests],
                    acceptance.nodes,
                    acceptance.lengths,
                )
            if verifier.synthetic is not None:
                # There is nothing to learn from chance.
                return output
            speculator.calibration.observe(
                speculator.tables.chances, speculator.tables.trees.parents, input_batch.idx_mapping, input_batch.cu_num_logits,
                acceptance.nodes, acceptance.lengths,
            )  # fmt: skip
        return output

    def sample_tokens(self, *args, **kwargs):
        output = super().sample_tokens(*args, **kwargs)
        speculator = self.speculator
        if self.metrics is not None and speculator.stats.steps % STEPS_PER_REPORT == 0:
            speculator.counters.fill(speculator.stats)
            self.metrics.publish(speculator.stats)
        return output
