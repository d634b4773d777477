"""What our model runners add to vLLM's: steps verify trees, and after each the draft gets the target's hidden states."""

import numpy as np
import torch
from vllm.logger import init_logger

from vllm_specflash.engine.attention_layers import attention_layers
from vllm_specflash.engine.metrics import WorkerMetrics
from vllm_specflash.engine.synthetic import conditional
from vllm_specflash.engine.target_layers import have_layers_told, in_order
from vllm_specflash.engine.v1.attention import (
    SidePaths,
    run_trees,
    tree_impl,
    tree_metadata_builder,
)
from vllm_specflash.engine.v1.sampler import NodeSampler
from vllm_specflash.engine.v1.spare import with_spare_blocks
from vllm_specflash.engine.v1.step import Step, Texts, rooms
from vllm_specflash.tree.step import Draft, StepTrees

logger = init_logger("vllm.specflash")


class SpecFlashRunnerMixin:
    """Goes before vLLM's V1 CPUModelRunner in the bases; `self.drafter` is a SpecFlashProposer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rejection_sampler = NodeSampler.replacing(self.rejection_sampler)
        rates = self.speculative_config.specflash.synthetic_acceptance
        if rates is not None:
            self.rejection_sampler.synthetic = torch.tensor(conditional(rates))
        # Set by the worker where side paths of trees are verified in blocks of their own (engine/v1/attention.py).
        self.num_spare_blocks = 0
        # Without it all drafts are chains.
        self.side_paths: SidePaths | None = None
        # Set by the worker that speaks for the engine, once it is warm.
        self.metrics: WorkerMetrics | None = None

    def load_model(self, *args, **kwargs):
        super().load_model(*args, **kwargs)
        have_layers_told(self)

    def initialize_kv_cache(self, kv_cache_config, *args, **kwargs):
        """vLLM's, with blocks of our own at the end that its scheduler never hears of."""
        spare, known = self.num_spare_blocks, kv_cache_config.num_blocks
        if spare:
            kv_cache_config = with_spare_blocks(kv_cache_config, spare)
        super().initialize_kv_cache(kv_cache_config, *args, **kwargs)
        self.drafter.cache.rebind()
        self._draft_group = self.drafter.cache.group_in(self.kv_cache_config)
        if not spare:
            return
        # The draft's own layer is written and read by the draft alone.
        layers = [
            layer
            for layer in attention_layers(self.vllm_config)
            if layer is not self.drafter.cache.layer and layer.kv_cache.numel()
        ]
        if any(len(layer.kv_cache) != known + spare for layer in layers):
            logger.warning("SpecFLASH drafts chains only: this KV cache's blocks are not those of its block tables.")
            return
        block_size = self.kv_cache_config.kv_cache_groups[0].kv_cache_spec.block_size
        side_paths = SidePaths(
            np.arange(known, known + spare), block_size, [layer.kv_cache for layer in layers], self.drafter.stats
        )
        for layer in layers:
            run_trees(layer.impl, tree_impl, side_paths)
        for group in (group for groups in self.attn_groups for group in groups):
            for builder in group.metadata_builders:
                run_trees(builder, tree_metadata_builder, side_paths)
        self.verify_trees_with(side_paths)

    def verify_trees_with(self, side_paths: SidePaths) -> None:
        """Drafts may be trees from here on."""
        self.side_paths = self.drafter.side_paths = side_paths
        self.rejection_sampler.stats = self.drafter.stats
        self.drafter.core.depth = self.drafter.depth

    def _prepare_inputs(self, scheduler_output, num_scheduled_tokens):
        prepared = super()._prepare_inputs(scheduler_output, num_scheduled_tokens)
        with self.drafter.stats.timing("verify_seconds"):
            self._begin_trees(scheduler_output.scheduled_spec_decode_tokens, num_scheduled_tokens)
        return prepared

    def _begin_trees(self, drafts: dict[str, list[int]], rows: np.ndarray) -> None:
        """Note this step's trees, and set every node's position to that of its depth; slots stay one after the other."""
        req_ids, sampler = self.input_batch.req_ids, self.rejection_sampler
        sampler.trees = None
        if self.side_paths is not None:
            self.side_paths.end()
        if not drafts:
            return
        lengths = [len(drafts.get(req_id, ())) for req_id in req_ids]
        sampler.trees = trees = StepTrees.of([self.drafter.drafted(req_id, length) for req_id, length in zip(req_ids, lengths)])
        # Without side paths, or of nothing but chains, every node already lies where it belongs.
        if self.side_paths is None or not trees.branches:
            return
        start = self.input_batch.num_computed_tokens_cpu[: len(req_ids)].astype(np.int64)
        rows = np.asarray(rows[: len(req_ids)], dtype=np.int64)
        base = start + rows - trees.counts
        if not self.side_paths.begin(trees, rows, base):
            # Requests that waited a step bring trees from before: with newer ones they need more than any one step's did.
            sampler.trees = StepTrees.of([Draft.chain(length) for length in lengths])
            return
        back = np.zeros(int(rows.sum()), dtype=np.int64)
        back[trees.rows(rows)] = trees.index - trees.depth
        # M-RoPE's three rows as well: text counts alike in all of them.
        positions = self._get_positions(len(back))
        positions -= torch.from_numpy(back)

    def _sample(self, logits, spec_decode_metadata):
        self.rejection_sampler.acceptance = None
        output = super()._sample(logits, spec_decode_metadata)
        acceptance = self.rejection_sampler.acceptance
        if acceptance is not None:
            with self.drafter.stats.timing("verify_seconds"):
                self._learn(acceptance)
        return output

    def _learn(self, acceptance) -> None:
        """Keep what the walks accepted, and let the draft's chances learn from them."""
        if self.side_paths is not None:
            self.side_paths.commit(acceptance)
        lengths, nodes = acceptance.lengths.numpy(), acceptance.nodes.numpy()
        if self.rejection_sampler.synthetic is None:
            self.drafter.calibration.observe(*self.rejection_sampler.trees.observations(lengths, nodes))
        in_place = np.arange(1, nodes.shape[1] + 1)
        self.drafter.stats.moved += int(((nodes >= 0) & (nodes != in_place)).any(1).sum())

    def propose_draft_token_ids(
        self,
        scheduler_output,
        sampled_token_ids,
        sampling_metadata,
        hidden_states,
        sample_hidden_states,
        aux_hidden_states,
        spec_decode_metadata,
        common_attn_metadata,
        slot_mappings,
    ) -> list[list[int]]:
        req_ids = self.input_batch.req_ids
        drafts: list[list[int]] = [[] for _ in req_ids]
        decoding, drafting = self._decoding(), self.drafter.stats.seconds
        try:
            resting = self.drafter.rests(len(req_ids))
            # A prompt's rows are kept whatever happens: what comes after it is drafted from them for as long as it is answered.
            if not (resting and decoding.all()):
                step = self._step(scheduler_output, sampled_token_ids, hidden_states, aux_hidden_states)
                if resting:
                    step.room[:] = 0
                drafts = self.drafter.propose(step)
            if resting:
                drafts = self.drafter.copy(self._texts(sampled_token_ids))
        except Exception:
            # A draft never breaks an answer: without one, the next step is a plain decode.
            if not self.drafter.stats.errors:
                logger.exception("SpecFLASH could not draft; answers are unaffected, only slower. Please report this.")
            self.drafter.stats.errors += 1
            self.drafter.collectives.settle()
            drafts = [[] for _ in req_ids]
        self._count(sampled_token_ids, decoding)
        drafts = self.drafter.agreed(req_ids, drafts)
        self.drafter.sizing.end_step(
            len(req_ids), scheduler_output.total_num_scheduled_tokens, self.rejection_sampler.trees,
            self.drafter.stats.seconds - drafting, bool(decoding.all()),
        )  # fmt: skip
        if self.metrics is not None:
            self.metrics.publish(self.drafter.stats)
        return drafts

    def _decoding(self) -> np.ndarray:
        """[R] bool, requests whose rows of this step are all past their prompts."""
        batch = self.input_batch
        return batch.num_computed_tokens_cpu[: batch.num_reqs] >= batch.num_prompt_tokens[: batch.num_reqs]

    def _count(self, sampled_token_ids: list[list[int]], decoding: np.ndarray) -> None:
        emitted = np.array([len(tokens) for tokens in sampled_token_ids])
        decoding = decoding & (emitted > 0)
        self.drafter.stats.decodes += int(decoding.sum())
        self.drafter.stats.decoded_tokens += int(emitted[decoding].sum())

    def _input_fits_in_drafter(self, common_attn_metadata) -> bool:
        # vLLM's own answer near max_model_len is to schedule drafts of zeros for the whole batch; ours are cut
        # request by request (Step.room).
        return common_attn_metadata is not None

    def _update_states(self, scheduler_output):
        self.drafter.forget(scheduler_output.finished_req_ids)
        for request in scheduler_output.scheduled_new_reqs:
            self.drafter.add_request(request.req_id, request.mm_features, request.sampling_params)
        return super()._update_states(scheduler_output)

    def _step(self, scheduler_output, sampled_token_ids, hidden_states, aux_hidden_states) -> Step:
        batch = self.input_batch
        req_ids = batch.req_ids
        count = len(req_ids)
        drafts = scheduler_output.scheduled_spec_decode_tokens
        scheduled = np.array([scheduler_output.num_scheduled_tokens[req_id] for req_id in req_ids])
        drafted = np.array([len(drafts.get(req_id, ())) for req_id in req_ids])
        emitted = np.array([len(tokens) for tokens in sampled_token_ids])
        slots, room = self._rooms(sampled_token_ids)
        # Of a chunk in mid-prefill every row counts; of a decode, the last token's row and one per accepted draft.
        committed = scheduled - drafted + np.maximum(emitted - 1, 0)
        start = batch.num_computed_tokens_cpu[:count].astype(np.int64)
        return Step(
            req_ids=req_ids,
            hidden_states=hidden_states,
            embeddings=self.inputs_embeds.gpu,
            layer_states=in_order(aux_hidden_states, self.speculative_config.target_layers),
            row=np.cumsum(scheduled) - scheduled,
            start=start,
            committed=committed,
            path=self._path(int(committed.max(initial=1))),
            room=room,
            slots=slots,
            token_ids=batch.token_ids_cpu,
            block_table=batch.block_table[self._draft_group].get_device_tensor(count),
        )

    def _path(self, width: int) -> np.ndarray | None:
        """[R, width] rows of committed positions counted from each request's first, where trees branched."""
        acceptance = self.rejection_sampler.acceptance
        if acceptance is None or not self.rejection_sampler.trees.branches:
            return None
        path = np.tile(np.arange(width), (len(acceptance.lengths), 1))
        nodes = acceptance.nodes.numpy()[:, : width - 1]
        accepted = path[:, 1 : nodes.shape[1] + 1]
        accepted[nodes >= 0] = nodes[nodes >= 0]
        return path

    def _rooms(self, sampled_token_ids) -> tuple[np.ndarray, np.ndarray]:
        requests = [self.requests[req_id] for req_id in self.input_batch.req_ids]
        return rooms(requests, sampled_token_ids, self.max_model_len, self.num_spec_tokens)

    def _texts(self, sampled_token_ids) -> Texts:
        batch = self.input_batch
        ends = np.array([self.requests[req_id].num_tokens for req_id in batch.req_ids])
        return Texts(batch.req_ids, batch.token_ids_cpu, ends, self._rooms(sampled_token_ids)[1])
