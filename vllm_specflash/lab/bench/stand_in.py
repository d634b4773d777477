"""One decode step of the V2 engine's own code, with stand-ins for vLLM's: shapes and calls are real, values mean nothing.

What launches.py and host_work.py look at. On the meta device nothing is computed and nothing can wait for a value; on a CPU
the torch operations run.
"""

from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn
from vllm.v1.worker.gpu.sample.output import SamplerOutput
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from vllm_specflash.config import SpecFlashOptions
from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.draft.linear import linear_of
from vllm_specflash.engine.cache import DraftCache
from vllm_specflash.engine.draft_model import NO_SPANS
from vllm_specflash.engine.v2.runner import SpecFlashRunnerMixin
from vllm_specflash.engine.v2.speculator import SpecFlashSpeculator
from vllm_specflash.engine.v2.verifier import TreeVerifier
from vllm_specflash.triton_kernels.kv_compact import CacheTable

BLOCK_SIZE, TARGET_LAYERS = 16, 28
# A small target that has all parts of a large one: calls are counted, not what they compute.
SMALL = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "target_vocab_size": 9000}


def empty_draft(config: SpecFlashConfig, device: torch.device) -> SpecFlashDraft:
    """A draft whose weights are whatever lay in memory: random numbers would need a device that is there."""
    with torch.device("meta"):
        model = SpecFlashDraft(config).eval()
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, value in tensors.items():
                if value is not None:
                    dtype = torch.bfloat16 if value.is_floating_point() else value.dtype
                    empty = torch.zeros(value.shape, dtype=dtype, device=device)
                    tensors[name] = nn.Parameter(empty, requires_grad=False) if tensors is module._parameters else empty
    return model


class _Runner:
    """What vLLM's runner does around ours, left out."""

    def prepare_attn(self, batch):
        return None

    def sample(self, hidden_states: Tensor, batch, grammar_output):
        return self.rejection_sampler(self.logits, batch)


class DecodeStep(SpecFlashRunnerMixin, _Runner):
    """
    Args:
        device: "meta" or "cpu".
        config: of the draft.
        requests: R, all of them decoding trees of n nodes and a root.
        nodes: n.
        context: tokens of each request before the step.
    """

    def __init__(self, device: str, config: SpecFlashConfig, requests: int, nodes: int, context: int):
        self.device = device = torch.device(device)
        vllm_config = SimpleNamespace(
            speculative_config=SimpleNamespace(
                specflash=SpecFlashOptions(), num_speculative_tokens=nodes, enable_adaptive_verification=False, trees=True
            ),
            scheduler_config=SimpleNamespace(max_num_seqs=requests, max_num_batched_tokens=max(2048, requests * (nodes + 1))),
            model_config=SimpleNamespace(max_model_len=context + nodes + 2, is_multimodal_model=False),
        )
        self.input_batch = self._batch(requests, nodes + 1, context)
        self.hidden_states = torch.zeros(self.input_batch.num_tokens, config.hidden_size, dtype=torch.bfloat16, device=device)
        layers = sorted(set(config.target_layers or ()))
        self.layer_states = [torch.zeros_like(self.hidden_states) for _ in layers] or None
        self.logits = torch.zeros(self.input_batch.num_tokens, 1, device=device)
        self.num_sampled = torch.ones(requests, dtype=torch.int32, device=device)
        self._build(vllm_config, config, requests, context)

    def _batch(self, requests: int, width: int, context: int) -> SimpleNamespace:
        """What of vLLM's InputBatch is read."""
        device, rows = self.device, requests * width
        bounds = torch.arange(0, rows + 1, width, dtype=torch.int32, device=device)
        return SimpleNamespace(
            num_reqs=requests, num_tokens=rows, req_ids=[str(n) for n in range(requests)],
            idx_mapping=torch.arange(requests, device=device), idx_mapping_np=np.arange(requests),
            query_start_loc=bounds, cu_num_logits=bounds, cu_num_logits_np=np.arange(0, rows + 1, width),
            seq_lens=torch.full((requests,), context + width, dtype=torch.int32, device=device),
            positions=torch.zeros(rows, dtype=torch.int64, device=device),
            input_ids=torch.zeros(rows, dtype=torch.int32, device=device), logits_indices=torch.arange(rows, device=device),
            expanded_idx_mapping=torch.arange(requests, device=device).repeat_interleave(width, output_size=rows),
            num_scheduled_tokens=np.full(requests, width), has_prefill=False,
            is_prefilling_np=np.zeros(requests, dtype=bool), num_computed_tokens_np=np.full(requests, context),
        )  # fmt: skip

    def _build(self, vllm_config, config: SpecFlashConfig, requests: int, context: int) -> None:
        device, batch = self.device, self.input_batch
        model = empty_draft(config, device)
        blocks = -(-(context + batch.num_tokens // requests + 1) // BLOCK_SIZE)
        shape = (requests * blocks, BLOCK_SIZE, 2, config.num_key_value_heads, config.head_dim)
        cache = DraftCache.__new__(DraftCache)
        cache.layer_name, cache.num_kv_heads, cache.head_dim = "draft", config.num_key_value_heads, config.head_dim
        cache._cache_config = SimpleNamespace(block_size=BLOCK_SIZE)
        cache._views = (*torch.zeros(shape, dtype=torch.bfloat16, device=device).flatten(0, 1).unbind(1), BLOCK_SIZE)
        cache.layer = SimpleNamespace(kv_cache=torch.ones(1))
        embedding = torch.zeros(config.target_vocab_size, config.hidden_size, dtype=torch.bfloat16, device=device)
        draft = SimpleNamespace(
            model=model, config=config, cache=cache, lm_head=linear_of(torch.zeros_like(embedding[: config.num_draft_tokens])),
            embed=lambda tokens: torch.nn.functional.embedding(tokens, embedding), ranks=SimpleNamespace(count=1),
            spans_of=lambda features: NO_SPANS,
        )  # fmt: skip
        lengths = torch.zeros(requests, dtype=torch.int32, device=device)
        tokens = torch.zeros(requests, context + 256, dtype=torch.int32, device=device)
        self.req_states = SimpleNamespace(
            all_token_ids=SimpleNamespace(gpu=tokens), prefill_len=SimpleNamespace(gpu=lengths)
        )
        self.speculator = speculator = SpecFlashSpeculator(vllm_config, device, self.req_states)
        speculator.adopt(draft)
        speculator.runs_trees = True
        table = torch.arange(requests * blocks, dtype=torch.int32, device=device).view(requests, blocks)
        speculator.block_table = table
        self.block_tables = SimpleNamespace(input_block_tables=[table])
        self.input_buffers, self.lora_state = SimpleNamespace(positions=batch.positions), SimpleNamespace()
        self.slot_mappings = {"draft": torch.zeros(batch.num_tokens, dtype=torch.int64, device=device)}
        pages = torch.zeros(requests * blocks, BLOCK_SIZE, config.num_key_value_heads, config.head_dim, device=device)
        addresses = torch.zeros(2 * TARGET_LAYERS, 5, dtype=torch.int64, device=device)
        self.lora_state = SimpleNamespace(node_bounds=None)
        self._caches = CacheTable((pages,) * (2 * TARGET_LAYERS), addresses, 8)
        sampler = RejectionSampler.__new__(RejectionSampler)
        sampler.sampler = lambda logits, batch: SamplerOutput(
            sampled_token_ids=torch.zeros(len(logits), 1, dtype=torch.int64, device=device), logprobs_tensors=None,
            num_nans=None, num_sampled=None, num_rejected=None,
        )  # fmt: skip
        sampler.sampler.req_states = self.req_states
        self.rejection_sampler = TreeVerifier.replacing(
            sampler, speculator.rows, speculator.width, speculator.counters.totals
        )

    def prepare(self) -> None:
        """Before the target's forward: where every node stands and what it sees."""
        self.prepare_attn(self.input_batch)

    def verify(self) -> None:
        """After it: the walk over every tree, and the moves of keys and values."""
        self.sample(self.hidden_states, self.input_batch, None)

    def draft(self) -> None:
        """Then: the drafts of the next step."""
        self.speculator.propose(
            self.input_batch, None, self.slot_mappings, self.hidden_states, self.layer_states, self.num_sampled
        )
