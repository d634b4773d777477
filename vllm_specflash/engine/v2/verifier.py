"""Lossless verification on Model Runner V2: vLLM's own sampler at every node, then a walk from the root.

The sampler's noise is keyed by seed and position, and nodes of one depth share a position: what it says at a node is what
plain vLLM would say there, sampled or greedy, so a drafted token is accepted exactly where plain vLLM emits it.
"""

from dataclasses import replace

import torch
from torch import Tensor
from vllm.v1.worker.gpu.input_batch import InputBatch, get_num_sampled_and_rejected
from vllm.v1.worker.gpu.sample.output import SamplerOutput
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from vllm_specflash.engine.synthetic import decide, uniform
from vllm_specflash.triton_kernels.tree_accept import Acceptance, tree_accept
from vllm_specflash.triton_kernels.tree_rows import TreeRows


class TreeVerifier(RejectionSampler):
    """Stands where vLLM's rejection sampler does.

    Attributes:
        rows: of the step at hand.
        width: W, nodes of a tree with its root, at most.
        counters: on the device, as tree_accept counts.
        trims: whether vLLM decides on the device how many nodes of each tree are verified: its host then has other bounds.
        acceptance: what the last walk found; None for a step that verified nothing.
        synthetic: chances by depth where drafts are accepted by chance (engine/synthetic.py); None: as the target says.
    """

    rows: TreeRows
    width: int
    counters: Tensor
    trims: bool
    acceptance: Acceptance | None
    synthetic: Tensor | None

    @classmethod
    def replacing(cls, sampler: RejectionSampler, rows: TreeRows, width: int, counters: Tensor) -> "TreeVerifier":
        """The same object, told to verify our way: its set-up differs between releases of vLLM."""
        sampler.__class__ = cls
        sampler.rows, sampler.width, sampler.counters, sampler.acceptance = rows, width, counters, None
        sampler.synthetic = None
        sampler.trims = getattr(sampler, "enable_adaptive_verification", False)
        return sampler

    def __call__(
        self,
        logits: Tensor,
        input_batch: InputBatch,
        draft_logits: Tensor | None = None,
        invalid_drafts: Tensor | None = None,
    ) -> SamplerOutput:
        """Args and result as in vLLM's; rows of `logits` [N, V] are nodes, `draft_logits` plays no part."""
        output = self.sampler(logits, input_batch)
        tokens = input_batch.input_ids[input_batch.logits_indices].long()
        if invalid_drafts is not None:
            # A grammar has ruled these out; what it knows of the rows after them means nothing.
            tokens = torch.where(invalid_drafts[: len(tokens)], -1, tokens)
        sampled = output.sampled_token_ids.view(-1)
        parents = self.rows.parents[: len(tokens)]
        if self.synthetic is not None:
            tokens, sampled = self._by_chance(tokens, parents, sampled.long(), input_batch)
        acceptance = tree_accept(tokens, parents, sampled, input_batch.cu_num_logits, self.width, self.counters)
        self.acceptance = acceptance
        num_sampled, num_rejected = get_num_sampled_and_rejected(
            acceptance.lengths + 1,
            input_batch.seq_lens,
            input_batch.cu_num_logits,
            input_batch.idx_mapping,
            self.sampler.req_states.prefill_len.gpu,
        )
        return replace(
            output,
            sampled_token_ids=acceptance.tokens,
            logprobs_tensors=self._along_paths(output.logprobs_tensors, acceptance, input_batch.cu_num_logits),
            num_sampled=num_sampled,
            num_rejected=num_rejected,
        )

    def _by_chance(
        self, tokens: Tensor, parents: Tensor, sampled: Tensor, input_batch: InputBatch
    ) -> tuple[Tensor, Tensor]:
        positions, bounds = input_batch.positions[input_batch.logits_indices].long(), input_batch.cu_num_logits
        lengths = bounds.diff().long()
        roots = torch.repeat_interleave(positions[bounds[:-1].long()], lengths, output_size=len(tokens))
        slots = torch.repeat_interleave(input_batch.idx_mapping.long(), lengths, output_size=len(tokens))
        return decide(tokens, parents, sampled, bounds, positions - roots, uniform(slots, positions), self.synthetic)

    def _along_paths(self, logprobs, acceptance: Acceptance, node_bounds: Tensor):
        """vLLM's LogprobsTensors by node -> by emitted token: row i of a request becomes that of the node which emitted token i."""
        if logprobs is None:
            return None
        rows = len(logprobs.logprobs)
        first = node_bounds[:-1].long()[:, None]
        emitted = torch.arange(1, acceptance.nodes.shape[1] + 1, device=first.device)
        # One row more takes what is written for nodes that were not accepted.
        source = torch.arange(rows + 1, device=first.device)
        accepted = acceptance.nodes >= 0
        source.scatter_(
            0, torch.where(accepted, first + emitted, rows).flatten(), (first + acceptance.nodes.clamp_min(0)).flatten()
        )
        source = source[:rows]
        logprobs = logprobs._replace(
            logprob_token_ids=logprobs.logprob_token_ids[source],
            logprobs=logprobs.logprobs[source],
            selected_token_ranks=logprobs.selected_token_ranks[source],
        )
        if self.trims:
            bounds = {"cu_num_generated_tokens": None, "cu_num_generated_tokens_tensor": node_bounds.clone()}
            logprobs = logprobs._replace(**bounds)
        return logprobs
