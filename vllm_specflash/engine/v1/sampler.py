"""Lossless verification: the target's token at every node by vLLM's own sampler, then a walk from the root.

A drafted token is accepted when the sampler, asked at its parent, says the very same token; the first that differs is
emitted in its place. For drafts that are chosen (not sampled) this is exact for every sampling setting, and greedy
decoding is its special case, for which the sampler need not even be asked. A chain is the tree in which every node has one child.

Seeded requests draw one number a node, in order, and their generators are wound back to the last node walked: a
seeded answer is the one that plain vLLM gives, however long the drafts were.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Generator, Tensor
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.logits_processor import LogitsProcessors, MinTokensLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.rejection_sampler import RejectionSampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.synthetic import decide, depths
from vllm_specflash.engine.v1.greedy import greedy_tokens
from vllm_specflash.tree.step import StepTrees
from vllm_specflash.triton_kernels.tree_accept import Acceptance, tree_accept


class NodeSampler(RejectionSampler):
    """Stands where vLLM's rejection sampler does; penalties, bad words, min_tokens and logprobs are still its own.

    Attributes:
        trees: of the step at hand; None before the first, and where nothing was drafted.
        acceptance: what the last walk found.
        stats: told how long walks take.
        synthetic: chances by depth where drafts are accepted by chance (engine/synthetic.py); None: as the target says.
    """

    trees: StepTrees | None
    acceptance: Acceptance | None
    stats: DraftStats
    synthetic: Tensor | None

    @classmethod
    def replacing(cls, sampler: RejectionSampler) -> "NodeSampler":
        """The same object, told to sample our way: its set-up differs between releases of vLLM."""
        sampler.__class__ = cls
        sampler.acceptance, sampler.trees, sampler.stats, sampler.synthetic = None, None, DraftStats(), None
        sampler.chance = Generator().manual_seed(0)
        return sampler

    def forward(
        self,
        metadata: SpecDecodeMetadata,
        draft_probs: Tensor | None,
        logits: Tensor,
        sampling_metadata: SamplingMetadata,
    ) -> SamplerOutput:
        """Args and result as in vLLM's RejectionSampler; `draft_probs` plays no part.

        Rows of `logits` [N, V]: for every request one per draft, then one for the token after the last draft.
        """
        if not len(metadata.target_logits_indices):
            # Nothing was drafted: a plain step, which vLLM of today takes through this sampler too.
            return self.sampler(logits=logits, sampling_metadata=sampling_metadata, predict_bonus_token=True)
        if only_argmax(sampling_metadata):
            sampled = greedy_tokens(logits)
            with self.stats.timing("verify_seconds"):
                self.acceptance = self._walk(metadata, sampled)
            return SamplerOutput(sampled_token_ids=self.acceptance.tokens.int(), logprobs_tensors=None)
        draws = SeededDraws(sampling_metadata.generators, metadata.num_draft_tokens)
        sampled = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
        # As in vLLM the rows after the last drafts come first: with them budgets of thinking advance. Seeded draws go from node to node.
        keep_raw = tells_logprobs(sampling_metadata) and not self.is_processed_logprobs_mode
        last = logits[metadata.bonus_logits_indices].to(torch.float32)
        after_drafts = self.sampler.apply_logits_processors(last.clone() if keep_raw else last, sampling_metadata, True)
        target_tokens, target_logits = self._at_drafts(metadata, logits, sampling_metadata, draws, keep_raw)
        sampled[metadata.target_logits_indices] = target_tokens
        bonus_tokens, constrained = self.sampler.sample(
            after_drafts,
            replace(sampling_metadata, generators=draws.after_drafts()),
            logprobs_mode_override="processed_logits" if self.is_processed_logprobs_mode else None,
        )
        sampled[metadata.bonus_logits_indices] = bonus_tokens.long()
        with self.stats.timing("verify_seconds"):
            self.acceptance = self._walk(metadata, sampled)
        emitted = self.acceptance.tokens.int()
        draws.wind_back(emitted)
        logprobs, asked = None, sampling_metadata.logprob_token_ids
        last = last if keep_raw or constrained is None else constrained
        if asked:
            logprobs = self._asked_logprobs(asked, metadata, target_logits, last, emitted)
        elif sampling_metadata.max_num_logprobs is not None:
            logprobs = self._get_logprobs_tensors(
                sampling_metadata.max_num_logprobs, metadata, logits, target_logits, last, emitted
            )
        return SamplerOutput(sampled_token_ids=emitted, logprobs_tensors=logprobs)

    def _asked_logprobs(
        self, asked: dict[int, list[int]], metadata: SpecDecodeMetadata, target_logits: Tensor, last: Tensor, emitted: Tensor
    ) -> LogprobsTensors:
        """Of the token ids that requests asked about, at every emitted token [R, W] of drafts that are chains.

        vLLM's rejection samplers know the likeliest tokens alone. Where a step has requests of both kinds its plain sampler, too, says
        this and no more.
        """
        width, ends = emitted.shape[1], metadata.cu_num_sampled_tokens
        final = target_logits.new_empty(len(target_logits) + len(last), target_logits.shape[1])
        final[metadata.target_logits_indices], final[metadata.bonus_logits_indices] = target_logits, last
        first = torch.cat((ends.new_zeros(1), ends[:-1]))
        rows = (first[:, None] + torch.arange(width, device=ends.device)).flatten().clamp(max=len(final) - 1)
        logprobs = final[rows] if self.is_logits_logprobs_mode else self.sampler.compute_logprobs(final[rows])
        by_row = {request * width + place: tokens for request, tokens in asked.items() for place in range(width)}
        return self.sampler.gather_specific_token_logprobs(logprobs, by_row, emitted.flatten().clamp(min=0).long())

    def _at_drafts(
        self, metadata: SpecDecodeMetadata, logits: Tensor, sampling: SamplingMetadata, draws: "SeededDraws", keep_raw: bool
    ) -> tuple[Tensor, Tensor]:
        """The target's tokens where a draft follows [D], and the logits [D, V] that logprobs are to be read from."""
        raw = logits[metadata.target_logits_indices].to(torch.float32)
        processed = self.apply_logits_processors(raw.clone() if keep_raw else raw, sampling, metadata)
        repeats = torch.tensor(metadata.num_draft_tokens)

        def per_draft(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.repeat_interleave(repeats, dim=0, output_size=len(raw))

        tokens, constrained = self.sampler.sample(
            processed,
            replace(
                sampling,
                temperature=per_draft(sampling.temperature),
                top_p=per_draft(sampling.top_p),
                top_k=per_draft(sampling.top_k),
                generators=draws.at_drafts(),
                # Nothing that is indexed by request may be applied to rows that are drafts.
                logitsprocs=LogitsProcessors(),
                logprob_token_ids=None,
            ),
            logprobs_mode_override="processed_logits" if self.is_processed_logprobs_mode else None,
        )
        return tokens.long(), raw if keep_raw or constrained is None else constrained

    def _walk(self, metadata: SpecDecodeMetadata, sampled: Tensor) -> Acceptance:
        """Tokens to emit [R, longest draft + 1], padded with -1, from the sampled token at every node [N]."""
        # On CPUs all of this is the host's; in numpy it takes a third of the time.
        bounds = torch.from_numpy(np.append(np.int32(0), metadata.cu_num_sampled_tokens.numpy()))
        if self.trees is None:
            # vLLM warms the sampler up before there is a step, with chains: a node's parent is the one before it.
            index = torch.arange(len(sampled))
            parents = index - torch.repeat_interleave(bounds[:-1], bounds.diff(), output_size=len(sampled)) - 1
        else:
            parents = torch.from_numpy(self.trees.parents)
        # The row before a draft's is another node of its tree, so this fills every row but the roots'.
        drafted = np.full(len(sampled), -1)
        drafted[metadata.target_logits_indices.numpy() + 1] = metadata.draft_token_ids.numpy()
        tokens = torch.from_numpy(drafted)
        if self.synthetic is not None:
            drawn = torch.rand(len(tokens), generator=self.chance)
            tokens, sampled = decide(tokens, parents, sampled, bounds, depths(parents, bounds), drawn, self.synthetic)
        return tree_accept(tokens, parents, sampled, bounds, metadata.max_spec_len + 1)


def tells_logprobs(sampling: SamplingMetadata) -> bool:
    """Whether a request of the step wants log probabilities, of the likeliest tokens or of certain ones."""
    return sampling.max_num_logprobs is not None or bool(sampling.logprob_token_ids)


def only_argmax(sampling: SamplingMetadata) -> bool:
    """Whether vLLM's sampler would do no more with any row of a step than take its likeliest token."""
    thinking = sampling.thinking_budget_state_holder
    return (
        sampling.all_greedy
        and sampling.no_penalties
        and sampling.allowed_token_ids_mask is None
        and not tells_logprobs(sampling)
        and not sampling.bad_words_token_ids
        and (thinking is None or not thinking.has_tracked_requests())
        and all(
            isinstance(processor, MinTokensLogitsProcessor) and not processor.min_toks
            for processor in sampling.logitsprocs.non_argmax_invariant
        )
    )


class SeededDraws:
    """Hands the sampler the generators of seeded requests, and remembers their state before every draw.

    Args:
        generators: by request.
        num_draft_tokens: [R] drafts of each request.
    """

    def __init__(self, generators: dict[int, Generator], num_draft_tokens: list[int]):
        self.generators, self.num_draft_tokens = generators, num_draft_tokens
        self.states: dict[int, list[Tensor]] = {request: [] for request in generators}

    def at_drafts(self) -> "_Remembering":
        """By row of the drafts' logits."""
        rows, first = {}, 0
        for request, count in enumerate(self.num_draft_tokens):
            if request in self.generators:
                rows.update(dict.fromkeys(range(first, first + count), request))
            first += count
        return _Remembering(rows, self)

    def after_drafts(self) -> "_Remembering":
        """By request."""
        return _Remembering({request: request for request in self.generators}, self)

    def wind_back(self, emitted: Tensor) -> None:
        """Leave each generator as if it had drawn once per emitted token; emitted is padded with -1."""
        if not self.generators:
            return
        counts = (emitted >= 0).sum(1).tolist()
        for request, states in self.states.items():
            if counts[request] < len(states):
                self.generators[request].set_state(states[counts[request]])


class _Remembering(dict):
    """Generators by row; iterating, as samplers do just before each row's draw, records their state."""

    def __init__(self, requests: dict[int, int], draws: SeededDraws):
        super().__init__({row: draws.generators[request] for row, request in requests.items()})
        self.requests, self.states = requests, draws.states

    def items(self) -> Iterator[tuple[int, Generator]]:
        for row, generator in super().items():
            self.states[self.requests[row]].append(generator.get_state())
            yield row, generator
