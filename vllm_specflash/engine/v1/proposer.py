"""The draft side of one engine step: feed it what was committed, let it propose what may come next."""

import time

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.logger import init_logger

from vllm_specflash.draft.core import DraftingCore, Queries, Rows
from vllm_specflash.engine.draft_model import NO_SPANS, LoadedDraft
from vllm_specflash.engine.latents import SpanPooler, chunks_of
from vllm_specflash.engine.parallel import Collectives, Ranks
from vllm_specflash.engine.sequential import reads_drafts_in_order
from vllm_specflash.engine.spans import SpanBatch, Spans
from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.synthetic import SYNTHETIC_WARNING, assumed_chances
from vllm_specflash.engine.transfer import to_device
from vllm_specflash.engine.v1.attention import SidePaths
from vllm_specflash.engine.v1.drafted import Drafted
from vllm_specflash.engine.v1.kept import KeptRows
from vllm_specflash.engine.v1.step import Step, Texts
from vllm_specflash.tree.build import Trees
from vllm_specflash.tree.calibration import Calibration
from vllm_specflash.tree.copies import copied_chances
from vllm_specflash.tree.sizing import Sizing
from vllm_specflash.tree.step import Draft
from vllm_specflash.triton_kernels.draft_attention import SpanTable
from vllm_specflash.triton_kernels.find_copies import Copies
from vllm_specflash.triton_kernels.loops import compile_loops

logger = init_logger("vllm.specflash")


class SpecFlashProposer:
    """Created by vLLM for `method="custom_class"`, driven by our V1 model runner."""

    def __init__(self, vllm_config: VllmConfig):
        self.vllm_config = vllm_config
        self.options = vllm_config.speculative_config.specflash
        self.num_speculative_tokens = vllm_config.speculative_config.num_speculative_tokens
        self.stats = DraftStats()
        self.ranks = Ranks()
        # Its step cost is set once the engine is warm, where sizing is "auto", on the rank that leads.
        self.sizing = Sizing()
        self._spans: dict[str, Spans] = {}
        self._kept = KeptRows()
        self._drafted = Drafted(self.stats)
        self._chains: set[str] = set()
        self.calibration = Calibration()
        # Set by the runner where trees can be verified.
        self.side_paths: SidePaths | None = None

    def load_model(self, target: torch.nn.Module) -> None:
        """Load the draft beside the target, and register its layer before vLLM sizes the KV cache."""
        self.draft = draft = LoadedDraft(self.vllm_config, target, self.ranks)
        self.model, self.cache, self.device = draft.model, draft.cache, draft.lm_head.weight.device
        self.vocab_size = draft.config.target_vocab_size
        self.collectives = Collectives(self.ranks, draft.embed, draft.lm_head.weight, draft.config.hidden_size)
        draft.sum = self.collectives.sum
        self.pooler = SpanPooler(draft.model.compressor)
        self.core = DraftingCore(
            draft.model, draft.lm_head, self.collectives.embed, draft.cache, self.depth, self.num_speculative_tokens,
            looks_up=self.options.looks_up(self.vllm_config.model_config.is_multimodal_model),
        )  # fmt: skip
        if self.options.synthetic_acceptance is not None:
            logger.warning(SYNTHETIC_WARNING)
            self.core.assumed = assumed_chances(self.options.synthetic_acceptance, self.core.width, self.device)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Draft once for nobody, so that no request waits for what a first draft alone sets up."""
        compile_loops()
        self.core.measure(1, 1)

    def forget(self, req_ids: set[str]) -> None:
        """Drop what is kept for requests that ended."""
        for req_id in req_ids:
            self._spans.pop(req_id, None)
            self._drafted.forget(req_id)
            self._chains.discard(req_id)
            self._kept.forget(req_id)
            self.pooler.forget(req_id)

    def drafted(self, req_id: str, length: int) -> Draft:
        """The tree of a request's first `length` drafted tokens, as it was proposed."""
        return self._drafted.of(req_id, length)

    def add_request(self, req_id: str, mm_features: list, sampling_params) -> None:
        """Note where a request's visual spans lie, and whether its drafts must be chains."""
        if reads_drafts_in_order(sampling_params, v1=True):
            self._chains.add(req_id)
        self._spans[req_id] = self.draft.spans_of(mm_features)
        self._drafted.expect(req_id, sampling_params.all_stop_token_ids if sampling_params else set())

    def rests(self, requests: int) -> bool:
        """Whether drafting pauses in the step of so many requests that begins; asked once a step."""
        self.stats.steps += 1
        return self.sizing.rests(requests)

    @torch.inference_mode()
    def propose(self, step: Step) -> list[list[int]]:
        """Draft tokens for every request of the step, path by path (tree/layout.py); empty where there is nothing to say.

        The draft's KV of every newly committed position is written whether or not a draft is wanted for it. A step may be left out: the
        draft then never sees what it committed (kept.py).
        """
        began = time.perf_counter()
        drafts: list[list[int]] = [[] for _ in step.req_ids]
        if self.cache.allocated and step.committed.any():
            self._draft(step, drafts)
        self.stats.proposed_tokens += sum(map(len, drafts))
        self.stats.seconds += time.perf_counter() - began
        return drafts

    def agreed(self, req_ids: list[str], drafts: list[list[int]]) -> list[list[int]]:
        """Drafts of a step as rank 0 has them; all ranks must ask, once a step, whatever became of their own."""
        if self.ranks.count == 1:
            return drafts
        trees = self._drafted.some([req_id for req_id, draft in zip(req_ids, drafts) if draft])
        drafts, trees, self.sizing.pause.steps = self.ranks.agree((drafts, trees, self.sizing.pause.steps))
        self._drafted.update(trees)
        return drafts

    def _draft(self, step: Step, drafts: list[list[int]]) -> None:
        """Keep what the step committed; draft for the requests that have room, into drafts."""
        spans = SpanBatch(
            [
                self._spans.get(req_id, NO_SPANS).with_holes(self._kept.keep(req_id, start, count))
                for req_id, start, count in zip(step.req_ids, step.start.tolist(), step.committed.tolist())
            ]
        )
        requests = np.repeat(np.arange(len(step.req_ids)), step.committed)
        within = np.arange(len(requests)) - np.repeat(np.cumsum(step.committed) - step.committed, step.committed)
        positions = step.start[requests] + within
        rows = step.rows(requests, within)
        last = np.cumsum(step.committed) - 1
        wanted = (step.room > 0) & (step.committed > 0)

        has_visual = False
        if spans.start.shape[1]:
            visual = spans.is_visual(requests, positions)
            has_visual = visual.any()
            if has_visual:
                # A prompt that ends in an image has no text pair to ask with: its draft begins one step later.
                wanted &= ~visual[last]
                text = ~visual
                last = np.cumsum(text)[last] - 1
                requests, positions, rows = requests[text], positions[text], rows[text]
        asking = np.flatnonzero(wanted)
        self.collectives.plan(len(requests), len(asking), self.core.num_rounds, self.model.config.semi_ar_width)
        if has_visual:
            self._pool(step, spans)

        next_tokens = np.clip(step.token_ids[requests, positions + 1], 0, self.vocab_size - 1)
        text = Rows(
            step.told(self._tensor(rows)),
            self._tensor(next_tokens),
            self._tensor(spans.draft_positions(requests, positions)),
            self.cache.slots(step.block_table, self._tensor(requests), self._tensor(positions)),
        )
        if not len(asking):
            with self.stats.timing("network_seconds"):
                self.core.remember(text)
            return
        visible = spans.draft_positions(asking, step.start[asking] + step.committed[asking] - 1) + 1
        of = self._tensor(asking)
        chain = [self.side_paths is None or step.req_ids[request] in self._chains for request in asking]
        copies = step.texts.copies(asking, self.core.copied, self.vocab_size) if self.core.copied else None
        queries = Queries(
            self._tensor(last[asking]),
            self._tensor(visible.astype(np.int32)),
            step.block_table.index_select(0, of),
            SpanTable(*(self._tensor(part[asking].astype(np.int32)) for part in (spans.compressed_start, spans.hidden))),
            self._tensor(step.room[asking].astype(np.int32)),
            self._tensor(np.array(chain)),
            copies,
        )
        with self.stats.timing("network_seconds"):
            proposal = self.core.propose(text, queries, self._tensor(self.calibration.ratio.astype(np.float32)), int(visible.max()))
        if self.ranks.leads:
            self._choose(proposal.tokens, Trees.of(proposal.tree), copies, asking, step, drafts)

    def _pool(self, step: Step, spans: SpanBatch) -> None:
        """Visual spans that this step's prompt chunks reach into."""
        chunks = []
        for request, req_id in enumerate(step.req_ids):
            of_request = self._spans.get(req_id, NO_SPANS)
            first, stop = int(step.start[request]), int(step.start[request] + step.committed[request])
            if first < of_request.last_end:
                chunks += chunks_of(of_request, req_id, request, first, stop, int(step.row[request]))
        latents = self.pooler.latents(chunks, step.hidden_states, step.embeddings)
        self.stats.visual_tokens += latents.visual_tokens
        self.stats.latents += len(latents.positions)
        if len(latents.positions):
            requests, positions = self._tensor(latents.requests), self._tensor(latents.positions)
            self.core.remember_latents(
                latents.rows,
                self._tensor(spans.draft_positions(latents.requests, latents.positions)),
                self.cache.slots(step.block_table, requests, positions),
            )

    @property
    def depth(self) -> int:
        """Positions ahead: those of the checkpoint's rounds, unless the user asks for chains of another length."""
        trained = self.model.config.semi_ar_width * self.model.config.num_rounds
        if self.side_paths is None and self.options.num_speculative_tokens is not None:
            return self.num_speculative_tokens
        return min(self.num_speculative_tokens, trained)

    def _choose(
        self, tokens: Tensor, trees: Trees, copies: Copies | None, requests: np.ndarray, step: Step, drafts: list[list[int]]
    ) -> None:
        """Of the trees, what is worth verifying and fits, into drafts; tokens [Q, n] of their nodes."""
        slots = np.arange(trees.chance.shape[1]) < step.slots[requests][:, None]
        chances = self._confident(np.where(slots, trees.chance, 0.0))
        copied = None if copies is None else lambda: self._confident(copied_chances(copies, step.room[requests], self.calibration.ratio)[1])
        keep = self.sizing.keep(chances, len(drafts), trees, copied)
        root = (step.start + step.committed)[requests]
        allowance = None if self.side_paths is None else self.side_paths.allowance()
        asked = [step.req_ids[request] for request in requests]
        for request, draft in zip(requests, self._drafted.trees(asked, tokens.tolist(), trees, keep, root, allowance)):
            drafts[request] = draft

    def copy(self, texts: Texts) -> list[list[int]]:
        """Drafts for a step of a pause: what texts have read before, where that promises to pay; the draft's network does nothing."""
        drafts: list[list[int]] = [[] for _ in texts.req_ids]
        if self.core.copied and texts.room.any():
            began, everyone = time.perf_counter(), np.arange(len(drafts))
            copies = texts.copies(everyone, self.core.copied, self.vocab_size)
            conditional, chances = copied_chances(copies, texts.room, self.calibration.ratio)
            lengths = self.sizing.keep_copies(self._confident(chances), len(drafts)).tolist()
            drafts = self._drafted.chains(texts.req_ids, copies.tokens.tolist(), conditional.tolist(), lengths)
            self.stats.proposed_tokens += sum(map(len, drafts))
            self.stats.seconds += time.perf_counter() - began
        self.stats.paused_steps += not any(drafts)
        return drafts

    def _confident(self, chances: np.ndarray) -> np.ndarray:
        """Chances to be accepted with all before, without those that the user does not want drafted."""
        return np.where(chances >= self.options.min_confidence, chances, 0.0)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return to_device(array, self.device)
