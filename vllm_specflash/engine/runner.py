"""What our model runners add to vLLM's: after each step, the draft gets the target's hidden states."""

import time

import numpy as np
import torch
from vllm.logger import init_logger

from vllm_specflash.engine.step import Step
from vllm_specflash.engine.verify import NodeSampler
from vllm_specflash.tree.cost import SIZES, StepCost

logger = init_logger("vllm.specflash")


class SpecFlashRunnerMixin:
    """Goes before CPUModelRunner or GPUModelRunner in the bases; `self.drafter` is a SpecFlashProposer."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rejection_sampler = NodeSampler.replacing(self.rejection_sampler)

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
        try:
            step = self._step(scheduler_output, sampled_token_ids, hidden_states, common_attn_metadata)
            return self.drafter.propose(step)
        except Exception:
            # A draft never breaks an answer: without one, the next step is a plain decode.
            if not self.drafter.stats.errors:
                logger.exception("SpecFLASH could not draft; answers are unaffected, only slower. Please report this.")
            self.drafter.stats.errors += 1
            return [[] for _ in self.input_batch.req_ids]

    def _input_fits_in_drafter(self, common_attn_metadata) -> bool:
        # vLLM's own answer near max_model_len is to schedule drafts of zeros for the whole batch; ours are cut
        # request by request (Step.room).
        return common_attn_metadata is not None

    def _update_states(self, scheduler_output):
        self.drafter.forget(scheduler_output.finished_req_ids)
        for request in scheduler_output.scheduled_new_reqs:
            self.drafter.add_request(request.req_id, request.mm_features)
        return super()._update_states(scheduler_output)

    def measure_step_cost(self) -> None:
        """Time the target's forward and lm_head over batches of growing size, for the drafts' lengths."""
        sizes = [size for size in SIZES if size <= self.max_num_tokens]
        timings = {}
        for size in sizes:
            self._timed_step(size)
            timings[size] = min(self._timed_step(size) for _ in range(2))
        self.drafter.step_cost = StepCost.of(timings)
        logger.info("SpecFLASH measured steps of %s", ", ".join(f"{n}: {timings[n] * 1e3:.1f} ms" for n in sizes))

    def _timed_step(self, num_tokens: int) -> float:
        torch.accelerator.synchronize()
        began = time.perf_counter()
        hidden_states, _ = self._dummy_run(num_tokens)
        self.model.compute_logits(hidden_states[:num_tokens]).argmax(-1)
        torch.accelerator.synchronize()
        return time.perf_counter() - began

    def _step(self, scheduler_output, sampled_token_ids, hidden_states, common_attn_metadata) -> Step:
        batch = self.input_batch
        req_ids = batch.req_ids
        count = len(req_ids)
        drafts = scheduler_output.scheduled_spec_decode_tokens
        scheduled = np.array([scheduler_output.num_scheduled_tokens[req_id] for req_id in req_ids])
        drafted = np.array([len(drafts.get(req_id, ())) for req_id in req_ids])
        emitted = np.array([len(tokens) for tokens in sampled_token_ids])
        room = np.array([self._room(req_id) if tokens else 0 for req_id, tokens in zip(req_ids, sampled_token_ids)])
        # Of a chunk in mid-prefill every row counts; of a decode, the last token's row and one per accepted draft.
        committed = scheduled - drafted + np.maximum(emitted - 1, 0)
        return Step(
            req_ids=req_ids,
            hidden_states=hidden_states,
            row=np.cumsum(scheduled) - scheduled,
            start=batch.num_computed_tokens_cpu[:count].astype(np.int64),
            committed=committed,
            room=room,
            token_ids=batch.token_ids_cpu,
            block_table=common_attn_metadata.block_table_tensor[:count],
        )

    def _room(self, req_id: str) -> int:
        """Longest draft that could still be accepted; the step after it always emits one token of its own."""
        request = self.requests[req_id]
        room = self.max_model_len - request.num_tokens - 1
        max_tokens = request.sampling_params.max_tokens
        if max_tokens is not None:
            room = min(room, max_tokens - len(request.output_token_ids) - 1)
        return max(0, min(room, self.num_spec_tokens))
