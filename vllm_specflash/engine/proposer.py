"""The draft side of one engine step: feed it what was committed, let it propose what may come next."""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.logger import init_logger

from vllm_specflash.config import SpecFlashError, first_sentence
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.candidates import CANDIDATES, Candidates
from vllm_specflash.engine.cache import DraftCache
from vllm_specflash.engine.latents import SpanChunk, SpanPooler
from vllm_specflash.engine.parallel import Collectives, Ranks
from vllm_specflash.engine.rounds import draft_candidates
from vllm_specflash.engine.sequential import reads_drafts_in_order
from vllm_specflash.engine.spans import VISUAL, SpanBatch, Spans
from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.step import Step
from vllm_specflash.engine.target import embed_tokens, lm_head_rows
from vllm_specflash.engine.verification import TreeVerification
from vllm_specflash.tree.build import Trees, best_trees
from vllm_specflash.tree.calibration import Calibration
from vllm_specflash.tree.cost import StepCost, best_sizes
from vllm_specflash.tree.layout import lay_out
from vllm_specflash.tree.pause import Pause
from vllm_specflash.tree.step import Draft
from vllm_specflash.triton_kernels.draft_attention import draft_attention

logger = init_logger("vllm.specflash")

NO_SPANS = Spans.of([], 0)


def load_draft(folder: Path, dtype: torch.dtype) -> SpecFlashDraft:
    """The draft of a checkpoint folder.

    Raises:
        SpecFlashError: its weights are damaged, for example by a copy that was cut short.
    """
    try:
        return SpecFlashDraft.from_pretrained(folder, dtype=dtype)
    except Exception as error:
        raise SpecFlashError(
            f"The weights of the SpecFLASH draft in {folder} could not be read ({first_sentence(error)}): "
            "copy its model.safetensors there again."
        ) from error


@dataclass
class _Inputs:
    """The draft's inputs of one step: T' rows (text pairs, then latents), Q queries."""

    u: Tensor
    draft_positions: Tensor
    slots: Tensor
    query_rows: Tensor
    query_requests: np.ndarray


class SpecFlashProposer:
    """Created by vLLM for `method="custom_class"`, driven by our model runners."""

    def __init__(self, vllm_config: VllmConfig):
        self.vllm_config = vllm_config
        self.options = vllm_config.speculative_config.specflash
        self.num_speculative_tokens = vllm_config.speculative_config.num_speculative_tokens
        self.stats = DraftStats()
        self.ranks = Ranks()
        # Set once the engine is warm, where sizing is "auto", on the rank that leads.
        self.step_cost: StepCost | None = None
        self._draft_seconds = 0.0
        self.pause = Pause()
        self._spans: dict[str, Spans] = {}
        self._drafted: dict[str, Draft] = {}
        self._chains: set[str] = set()
        self.calibration = Calibration()
        # Set by the runner where trees can be verified.
        self.verification: TreeVerification | None = None

    def load_model(self, target: torch.nn.Module) -> None:
        """Load the draft beside the target, and register its layer before vLLM sizes the KV cache."""
        model_config = self.vllm_config.model_config
        folder = Path(self.options.model)
        self.model = load_draft(folder, model_config.dtype).eval().requires_grad_(False)
        config = self.model.config
        if self.ranks.count > 1:
            self.model.attention.keep_share(self.ranks.rank, self.ranks.count)
            self.model.attention.o_proj.register_forward_hook(lambda layer, given, output: self.collectives.sum(output))
        self.model.to(self.vllm_config.device_config.device)
        self.cache = DraftCache(self.vllm_config, self.model.attention)
        wanted = None if config.draft_vocab_size is None else self.model.d2t
        self.lm_head = lm_head_rows(target, config.target_vocab_size, wanted, self.ranks)
        self.collectives = Collectives(self.ranks, embed_tokens(target), self.lm_head, config.hidden_size)
        self.pooler = SpanPooler(self.model.compressor.queries)
        self.device = self.lm_head.device
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters()) / 2**20
        logger.info(
            "SpecFLASH draft loaded from %s: %.1f MiB, up to %d tokens in rounds of %d",
            folder, weights, self.num_speculative_tokens, config.semi_ar_width,
        )  # fmt: skip

    def forget(self, req_ids: set[str]) -> None:
        """Drop what is kept for requests that ended."""
        for req_id in req_ids:
            self._spans.pop(req_id, None)
            self._drafted.pop(req_id, None)
            self._chains.discard(req_id)
            self.pooler.forget(req_id)

    def drafted(self, req_id: str, length: int) -> Draft:
        """The tree of a request's first `length` drafted tokens, as it was proposed."""
        draft = self._drafted.get(req_id)
        if length and draft is not None and length < len(draft.parents):
            return draft.cut(length)
        return Draft.chain(length)

    def add_request(self, req_id: str, mm_features: list, sampling_params) -> None:
        """Note where a request's visual spans lie, and whether its drafts must be chains."""
        if reads_drafts_in_order(sampling_params):
            self._chains.add(req_id)
        ranges = [
            (feature.mm_position.offset, feature.mm_position.length)
            for feature in mm_features
            if feature.modality in VISUAL
        ]
        self._spans[req_id] = Spans.of(ranges, self.model.config.num_latents) if ranges else NO_SPANS

    @torch.inference_mode()
    def propose(self, step: Step) -> list[list[int]]:
        """Draft tokens for every request of the step, path by path (tree/layout.py); empty where there is nothing to say.

        The draft's KV of every newly committed position is written whether or not a draft is wanted for it.
        """
        began = time.perf_counter()
        drafts: list[list[int]] = [[] for _ in step.req_ids]
        if self.pause.take_step():
            self.stats.paused_steps += 1
            step.room[:] = 0
        if self.cache.allocated:
            spans = SpanBatch([self._spans.get(req_id, NO_SPANS) for req_id in step.req_ids])
            inputs = self._gather(step, spans)
            if inputs is not None:
                with self.stats.timing("network_seconds"):
                    candidates = self._forward(step, spans, inputs)
                if candidates is not None and self.ranks.leads:
                    self._choose(candidates, inputs.query_requests, step, drafts)
                    # Smoothed, and slow to rise: the first forwards of a shape are not typical.
                    taken = time.perf_counter() - began
                    self._draft_seconds += 0.2 * (min(taken, 2 * self._draft_seconds or 1) - self._draft_seconds)
        self.pause.ease(len(step.req_ids))
        self.stats.steps += 1
        self.stats.proposed_tokens += sum(map(len, drafts))
        self.stats.seconds += time.perf_counter() - began
        return drafts

    def agreed(self, req_ids: list[str], drafts: list[list[int]]) -> list[list[int]]:
        """Drafts of a step as rank 0 has them; all ranks must ask, once a step, whatever became of their own."""
        if self.ranks.count == 1:
            return drafts
        trees = {req_id: self._drafted[req_id] for req_id, draft in zip(req_ids, drafts) if draft}
        drafts, trees, self.pause.steps = self.ranks.agree((drafts, trees, self.pause.steps))
        self._drafted.update(trees)
        return drafts

    def _gather(self, step: Step, spans: SpanBatch) -> _Inputs | None:
        """Split the committed rows into text pairs and span chunks, and pool the spans that ended."""
        requests = np.repeat(np.arange(len(step.req_ids)), step.committed)
        if not len(requests):
            return None
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
        query_requests = np.flatnonzero(wanted)
        rounds = -(-self._depth_of(step, query_requests) // self.model.config.semi_ar_width)
        self.collectives.plan(len(requests), len(query_requests), rounds, self.model.config.semi_ar_width)

        latents = self._pool(step) if has_visual else None
        next_tokens = np.clip(step.token_ids[requests, positions + 1], 0, self.model.config.target_vocab_size - 1)
        with self.stats.timing("network_seconds"):
            hidden = step.hidden_states[self._tensor(rows)]
            u = self.model.fuse(self.collectives.embed(self._tensor(next_tokens)).to(hidden.dtype), hidden)
        if latents is not None:
            of_requests, of_positions, pooled = latents
            requests = np.concatenate((requests, of_requests))
            positions = np.concatenate((positions, of_positions))
            u = torch.cat((u, pooled.to(u.dtype)))
        return _Inputs(
            u=u,
            draft_positions=self._tensor(spans.draft_positions(requests, positions)),
            slots=self._slots(step, self._tensor(requests), self._tensor(positions)),
            query_rows=self._tensor(last[query_requests]),
            query_requests=query_requests,
        )

    def _pool(self, step: Step) -> tuple[np.ndarray, np.ndarray, Tensor]:
        """Latents of the spans that ended in this step: requests [L], target positions [L], rows [L, D]."""
        finished = self.pooler.pool(self._span_chunks(step), step.hidden_states)
        index = {req_id: request for request, req_id in enumerate(step.req_ids)}
        requests, positions, rows = [], [], [step.hidden_states.new_empty(0, self.model.config.hidden_size).float()]
        for chunk, began, latents in finished:
            count = int(self._spans[chunk.request].latents[chunk.span])
            slots = np.arange(chunk.end - count, chunk.end)
            # Latents in blocks that came from the prefix cache were pooled over the whole span: leave them be.
            kept = slots >= began
            self.stats.visual_tokens += chunk.end - began
            self.stats.latents += int(kept.sum())
            requests.append(np.full(int(kept.sum()), index[chunk.request]))
            positions.append(slots[kept])
            rows.append(latents[:count][self._tensor(np.flatnonzero(kept))])
        empty = np.empty(0, dtype=np.int64)
        return np.concatenate([empty, *requests]), np.concatenate([empty, *positions]), torch.cat(rows)

    def _span_chunks(self, step: Step) -> list[SpanChunk]:
        chunks = []
        for request, req_id in enumerate(step.req_ids):
            spans = self._spans.get(req_id, NO_SPANS)
            first, stop = int(step.start[request]), int(step.start[request] + step.committed[request])
            if first >= spans.last_end:
                continue
            for k in np.flatnonzero((spans.start < stop) & (spans.end > first)):
                begin, end = max(first, int(spans.start[k])), min(stop, int(spans.end[k]))
                row = int(step.row[request]) + begin - first
                chunks.append(SpanChunk(req_id, int(k), begin, end, row, int(spans.end[k])))
        return chunks

    def _forward(self, step: Step, spans: SpanBatch, inputs: _Inputs) -> Candidates | None:
        """Write the new KV; where drafts are wanted, attend and unroll the rounds."""
        requests = inputs.query_requests
        if not len(requests):
            _, keys, values = self.model.attention.project(self._normed(inputs.u), inputs.draft_positions)
            self.cache.write(inputs.slots, keys, values)
            return None
        query_positions = step.start[requests] + step.committed[requests] - 1
        lengths = spans.draft_positions(requests, query_positions) + 1
        visible_positions = spans.visible_positions(requests, int(lengths.max()))
        context = _Context(
            cache=self.cache,
            slots=self._slots(step, self._tensor(requests)[:, None], self._tensor(visible_positions)),
            visible=self._tensor(lengths.astype(np.int32)),
            bounds=torch.arange(len(requests) + 1, dtype=torch.int32, device=self.device),
        )

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            self.cache.write(inputs.slots, k, v)
            return context.attend(q)

        x = self.model.layer(inputs.u, inputs.draft_positions, attend, rows=inputs.query_rows)
        return draft_candidates(
            self.model, self.lm_head, self.collectives.embed, context, x, context.visible.long(),
            self._depth_of(step, requests), CANDIDATES,
        )  # fmt: skip

    def _normed(self, u: Tensor) -> Tensor:
        return self.model.attention_norm(u) if self.model.config.variant == "residual" else u

    @property
    def _depth(self) -> int:
        """Positions ahead: those of the checkpoint's rounds, unless the user asks for chains of another length."""
        trained = self.model.config.semi_ar_width * self.model.config.num_rounds
        if self.verification is None and self.options.num_speculative_tokens is not None:
            return self.num_speculative_tokens
        return min(self.num_speculative_tokens, trained)

    def _depth_of(self, step: Step, requests: np.ndarray) -> int:
        """Of this step's drafts: no deeper than any of the requests has room for."""
        return int(min(self._depth, step.room[requests].max(initial=0)))

    def _choose(self, candidates: Candidates, requests: np.ndarray, step: Step, drafts: list[list[int]]) -> None:
        """Of the candidates, the trees that are worth verifying and fit, into drafts."""
        req_ids = [step.req_ids[request] for request in requests]
        first, following = candidates.first.cpu().numpy(), candidates.following.cpu().numpy()
        chain = np.array([self.verification is None or req_id in self._chains for req_id in req_ids])
        trees = best_trees(
            first, following, self.num_speculative_tokens, step.room[requests], chain, self.calibration.ratio
        )
        slots = np.arange(trees.chance.shape[1]) < step.slots[requests][:, None]
        chances = np.where(slots & (trees.chance >= self.options.min_confidence), trees.chance, 0.0)
        keep, gain = best_sizes(chances, len(drafts), self.step_cost, self._draft_seconds, trees.starts_path)
        self.pause.weigh(gain, len(drafts))
        root = step.start[requests] + step.committed[requests]
        self._hand_over(candidates.tokens.cpu().numpy(), trees, keep, requests, req_ids, root, drafts)

    def _hand_over(
        self,
        tokens: np.ndarray,
        trees: Trees,
        count: np.ndarray,
        requests: np.ndarray,
        req_ids: list[str],
        root: np.ndarray,
        drafts: list[list[int]],
    ) -> None:
        """Lay the trees out, as far as they can be verified, and remember them.

        tokens [Q, L, C]; count [Q] nodes to keep; root [Q] target position of each tree's root.
        """
        row = np.arange(len(requests))[:, None]
        tokens = tokens[row, trees.depth - 1, trees.candidate].tolist()
        parents, given, depth = trees.parent.tolist(), trees.conditional.tolist(), trees.depth.tolist()
        allowance = None if self.verification is None else self.verification.allowance()
        for q, (request, req_id, n) in enumerate(zip(requests.tolist(), req_ids, count.tolist())):
            order, above = lay_out(parents[q][:n])
            starts = [node for node, parent in enumerate(above) if parent != node]
            if starts:
                n = allowance.fitting(n, starts, int(root[q]), max(depth[q][:n]))
                self.stats.branching += starts[0] < n
            drafts[request] = [tokens[q][node] for node in order[:n]]
            self._drafted[req_id] = Draft([-1, *above[:n]], [np.nan, *(given[q][node] for node in order[:n])])

    def _slots(self, step: Step, requests: Tensor, positions: Tensor) -> Tensor:
        """Cache slots of target positions, both [...] int64."""
        block_size = self.cache.block_size
        blocks = step.block_table[requests, positions // block_size].long()
        return blocks * block_size + positions % block_size

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device, non_blocking=True)


@dataclass
class _Context:
    """What the Q queries of a step see of the paged cache."""

    cache: DraftCache
    slots: Tensor
    visible: Tensor
    bounds: Tensor

    def attend(self, q: Tensor, keys: Tensor | None = None, values: Tensor | None = None) -> Tensor:
        """q [Q, H, Dh], and rows outside the cache [Q, E, Hkv, Dh] that come after it -> [Q, H, Dh]."""
        extra_visible = None
        if keys is not None:
            extra_visible = torch.full_like(self.visible, keys.shape[1])
        scale = q.shape[-1] ** -0.5
        return draft_attention(
            q, self.cache.keys, self.cache.values, self.slots, self.visible, self.bounds, scale,
            keys, values, extra_visible,
        )  # fmt: skip
