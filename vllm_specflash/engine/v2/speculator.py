"""What vLLM's V2 runner calls its speculator: after each step, drafts for the next one, without the host reading anything."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.v1.worker.gpu.input_batch import InputBatch
from vllm.v1.worker.gpu.spec_decode.speculator import BaseSpeculator
from vllm.v1.worker.gpu.states import RequestState

from vllm_specflash.draft.core import DraftingCore, Queries, Rows
from vllm_specflash.engine.draft_model import NO_SPANS, LoadedDraft
from vllm_specflash.engine.latents import SpanPooler, chunks_of
from vllm_specflash.engine.spans import SpanBatch, Spans
from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.synthetic import SYNTHETIC_WARNING, assumed_chances
from vllm_specflash.engine.target_layers import in_order
from vllm_specflash.engine.transfer import to_device
from vllm_specflash.engine.v2.counters import DeviceCounters
from vllm_specflash.engine.v2.graphs import DraftGraphs
from vllm_specflash.engine.v2.slots import SlotTables, spans_for
from vllm_specflash.tree.calibration import DeviceCalibration
from vllm_specflash.triton_kernels.commit_rows import CommittedRows, commit_rows
from vllm_specflash.triton_kernels.find_copies import find_copies
from vllm_specflash.triton_kernels.keep_tree import KeptDrafts, keep_tree
from vllm_specflash.triton_kernels.slot_queries import SlotQueries, slot_queries
from vllm_specflash.triton_kernels.tree_accept import Acceptance
from vllm_specflash.triton_kernels.tree_rows import TreeRows

logger = init_logger("vllm.specflash")


class SpecFlashSpeculator(BaseSpeculator):
    """
    Args:
        req_states: vLLM's tables of requests; releases before 0.32 hand them over later.

    Attributes:
        tables: what is known of every slot.
        rows: what verification needs of the step at hand.
        draft_token_confidence_probs: [max_num_reqs, n], each token's chance given that the one before it in the list was
            accepted: what vLLM's adaptive verification multiplies up.
    """

    # Visual spans are read from the target's hidden states: vLLM need not gather its embeddings for the draft.
    supports_mm_inputs = False
    draft_logits = None
    pcp_manager = None
    # vLLM 0.26 prepares communication buffers for whatever layers it finds in it.
    model = torch.nn.Module()

    def __init__(self, vllm_config, device: torch.device, req_states: RequestState | None = None):
        self.vllm_config, self.device, self.req_states = vllm_config, device, req_states
        config = vllm_config.speculative_config
        self.options, self.num_speculative_tokens = config.specflash, config.num_speculative_tokens
        self.enable_adaptive_verification = getattr(config, "enable_adaptive_verification", False)
        self.max_num_reqs = vllm_config.scheduler_config.max_num_seqs
        self.width = self.num_speculative_tokens + 1
        self.stats, self.counters = DraftStats(), DeviceCounters(device)
        # Until the runner has found that its attention verifies trees, all drafts are chains.
        self.runs_trees = False
        self.acceptance: Acceptance | None = None
        # Of the step at hand, [T, D or more], kept by the runner before the target's layers change them; None for drafts that pool none.
        self.embeddings: Tensor | None = None
        self._spans: dict[str, Spans] = {}

    def load(self, target: torch.nn.Module) -> None:
        """Load the draft beside the target, and register its layer before vLLM sizes the KV cache."""
        self.adopt(LoadedDraft(self.vllm_config, target))

    def adopt(self, draft: LoadedDraft) -> None:
        """Draft with it, in buffers made for it."""
        self.draft, model_config = draft, self.vllm_config.model_config
        self.hidden_size, self.vocab_size = draft.config.hidden_size, draft.config.target_vocab_size
        trained = draft.config.semi_ar_width * draft.config.num_rounds
        asked = self.num_speculative_tokens
        depth = min(asked, trained) if self.vllm_config.speculative_config.trees else asked
        self.core = DraftingCore(
            draft.model, draft.lm_head, draft.embed, draft.cache, depth, self.num_speculative_tokens,
            model_config.max_model_len, self.options.looks_up(model_config.is_multimodal_model),
        )  # fmt: skip
        rates = self.options.synthetic_acceptance
        if rates is not None:
            logger.warning(SYNTHETIC_WARNING)
            self.core.assumed = assumed_chances(rates, self.core.width, self.core.device)
        self.pooler = SpanPooler(draft.model.compressor)
        self._allocate(max(depth, self.core.copied))

    def _allocate(self, depth: int) -> None:
        """Everything that keeps its address from step to step."""
        scheduler = self.vllm_config.scheduler_config
        most_rows, requests, device = scheduler.max_num_batched_tokens, self.max_num_reqs, self.device
        max_spans = spans_for(self.draft.config.pooling, self.vllm_config.model_config.max_model_len)
        self.tables = SlotTables(requests, self.width, depth, device, max_spans)
        self.rows = TreeRows.empty(most_rows, requests, self.width, device)
        self.committed = CommittedRows.empty(most_rows, requests, device)
        self.queries = SlotQueries.empty(requests, self.tables.flags)
        width, dtype = self.draft.config.feature_size, self.core.dtype
        self.hidden = torch.zeros(most_rows, width, dtype=dtype, device=device)
        # The final hidden states', then one for each layer that the draft sees too.
        self._parts = self.hidden.split(self.hidden_size, dim=1)
        self.drafts = torch.zeros(requests, self.num_speculative_tokens, dtype=torch.int64, device=device)
        self.draft_token_confidence_probs = torch.zeros(requests, self.num_speculative_tokens, device=device)
        self.kept = KeptDrafts(self.drafts, self.draft_token_confidence_probs, self.tables.trees, self.tables.chances)
        self.calibration = DeviceCalibration(device)
        self.graphs = DraftGraphs(self)

    def add_request(self, slot: int, req_id: str, mm_features: list, chain: bool) -> None:
        """Note where a request's visual spans lie, and whether its drafts must be chains; `tables.apply` follows."""
        self.pooler.forget(req_id)
        spans = self.draft.spans_of(mm_features)
        if len(spans):
            self._spans[req_id] = spans
        self.tables.stage(slot, spans, chain or not self.runs_trees)

    def forget(self, req_ids) -> None:
        """Drop what is kept for requests that ended."""
        for req_id in req_ids:
            if self._spans.pop(req_id, None) is not None:
                self.pooler.forget(req_id)

    # vLLM's side.

    def init_cudagraph_manager(self, cudagraph_mode) -> None:
        self.graphs.choose_sizes(cudagraph_mode)

    def capture(self) -> None:
        self.graphs.capture()

    @torch.inference_mode()
    def propose(
        self,
        input_batch: InputBatch,
        attn_metadata: dict[str, Any] | None,
        slot_mappings: dict[str, Tensor] | None,
        last_hidden_states: Tensor,
        aux_hidden_states: list[Tensor] | None,
        num_sampled: Tensor,
        *args,
        dummy_run: bool = False,
        is_profile: bool = False,
        num_speculative_tokens: int | None = None,
        **kwargs,
    ) -> Tensor:
        """Drafts [R, n] int64 for the R requests of the step, of which vLLM will verify num_speculative_tokens."""
        requests, drafts = input_batch.num_reqs, self.drafts[: input_batch.num_reqs]
        if dummy_run and is_profile:
            # The most that a step may need, for vLLM's measurement of memory; there is no KV cache yet.
            self.core.measure(len(last_hidden_states), min(self.max_num_reqs, len(last_hidden_states)))
        if dummy_run or not self.draft.cache.allocated:
            return drafts
        try:
            told = [last_hidden_states, *in_order(aux_hidden_states, self.draft.config.target_layers)]
            self._draft(input_batch, slot_mappings, told, num_sampled, num_speculative_tokens != 0)
        except Exception:
            # Ranks that share a target have to see the same drafts: where there are several, none may go on alone.
            if self.draft.ranks.count > 1:
                raise
            self._draft_nothing(input_batch)
        self.acceptance = None
        self.stats.steps += 1
        wanted = self.num_speculative_tokens if num_speculative_tokens is None else num_speculative_tokens
        self.stats.paused_steps += not wanted
        self.stats.proposed_tokens += requests * wanted
        return drafts

    def _draft(
        self, batch: InputBatch, slot_mappings: dict[str, Tensor], told: list[Tensor], num_sampled: Tensor, wanted: bool
    ) -> None:
        """`told`: the target's final hidden states [T, D] of the step, then those of more layers."""
        rows = batch.num_tokens
        self._commit(batch, slot_mappings, num_sampled)
        for states, part in zip(told, self._parts, strict=True):
            torch.index_select(states, 0, self.committed.source[:rows], out=part[:rows])
        self._pool(batch, told[0])
        if not wanted:
            self.core.remember(self._committed_rows(rows))
        elif not self.graphs.replay(batch):
            self.draft_step(rows, batch.num_reqs)

    def _committed_rows(self, num_rows: int) -> Rows:
        committed = self.committed
        return Rows(
            self.hidden[:num_rows], committed.next_tokens[:num_rows], committed.positions[:num_rows], committed.slots[:num_rows]
        )

    def _draft_nothing(self, batch: InputBatch) -> None:
        """After an error: placeholders whose tokens nobody can accept. A draft never breaks an answer."""
        if not self.stats.errors:
            logger.exception("SpecFLASH could not draft; answers are unaffected, only slower. Please report this.")
        self.stats.errors += 1
        self.tables.trees.parents.index_fill_(0, batch.idx_mapping.long(), -1)
        self.tables.chances.index_fill_(0, batch.idx_mapping.long(), torch.nan)
        self.drafts[: batch.num_reqs].zero_()

    def _commit(self, batch: InputBatch, slot_mappings: dict[str, Tensor], num_sampled: Tensor) -> None:
        """What the step committed, into the persistent rows."""
        acceptance = self.acceptance
        commit_rows(
            batch.idx_mapping,
            batch.query_start_loc,
            batch.cu_num_logits,
            batch.seq_lens,
            num_sampled,
            None if acceptance is None else acceptance.nodes,
            None if acceptance is None else acceptance.lengths,
            self.req_states.all_token_ids.gpu,
            slot_mappings[self.draft.cache.layer_name],
            self.tables.spans,
            self.vocab_size,
            int(batch.num_scheduled_tokens.max()),
            self.committed,
        )
        slot_queries(batch.idx_mapping, self.tables.flags, self.committed, batch.num_tokens, self.queries)

    def draft_step(self, num_rows: int, requests: int) -> None:
        """From the persistent rows to `drafts` and the trees of the requests' slots; what CUDA graphs capture."""
        committed, (slot_of, chain, deepest, spans), copies = self.committed, self.queries.cut(requests), None
        if self.core.copied:
            texts = self.req_states.all_token_ids.gpu
            copies = find_copies(texts, slot_of, committed.ends[:requests], self.core.copied, self.vocab_size)
        queries = Queries(
            committed.query_rows[:requests], committed.visible[:requests], self.block_table[:requests], spans, deepest, chain, copies
        )
        proposal = self.core.propose(self._committed_rows(num_rows), queries, self.calibration.ratio)
        keep_tree(proposal.tree, proposal.candidates.tokens, slot_of, self.kept)

    def _pool(self, batch: InputBatch, hidden_states: Tensor) -> None:
        """Visual spans that this step's prompt chunks reach into; positions of prompts are known to the host exactly."""
        chunks = []
        if self._spans and batch.is_prefilling_np.any():
            for request in np.flatnonzero(batch.is_prefilling_np).tolist():
                spans = self._spans.get(batch.req_ids[request])
                if spans is not None:
                    first = int(batch.num_computed_tokens_np[request])
                    stop = first + int(batch.num_scheduled_tokens[request])
                    row = int(batch.query_start_loc_np[request])
                    chunks += chunks_of(spans, batch.req_ids[request], request, first, stop, row)
        if not chunks:
            return
        latents = self.pooler.latents(chunks, hidden_states, self.embeddings)
        self.stats.visual_tokens += latents.visual_tokens
        self.stats.latents += len(latents.positions)
        if len(latents.positions):
            spans = SpanBatch([self._spans.get(req_id, NO_SPANS) for req_id in batch.req_ids])
            requests, at, positions = (
                to_device(part, self.device)
                for part in (latents.requests, latents.positions, spans.draft_positions(latents.requests, latents.positions))
            )
            self.core.remember_latents(latents.rows, positions, self.draft.cache.slots(self.block_table, requests, at))
