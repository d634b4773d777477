"""Greedy steps skip vLLM's sampler: only where it would take the likeliest token too, and then the same one."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from vllm.v1.sample.logits_processor import LogitsProcessors, MinTokensLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata

from vllm_specflash.engine.v1.greedy import ROWS, greedy_tokens
from vllm_specflash.engine.v1.sampler import only_argmax


# Of Llama, Qwen and SmolLM2; of one block; with blocks too small to be worth it; odd.
@pytest.mark.parametrize("size", [128256, 151936, 49152, 512, 96, 97])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_likeliest_token_is_the_first_of_the_best(size, dtype):
    logits = torch.randn(ROWS + 7, size, generator=torch.Generator().manual_seed(0)).to(dtype)
    # Many equal ones, infinities as masks leave them, and NaN, which counts as the most.
    logits[1] = logits[1].round()
    logits[2] = 0
    logits[3] = -torch.inf
    logits[4, size // 2 :] = -torch.inf
    logits[-1, size // 3] = torch.nan
    assert torch.equal(greedy_tokens(logits), logits.float().argmax(-1))


def _sampling(**fields) -> SamplingMetadata:
    nothing = dict.fromkeys(
        ("temperature", "top_p", "top_k", "max_num_logprobs", "prompt_token_ids", "allowed_token_ids_mask")
    )
    none = torch.zeros(2)
    plain = SamplingMetadata(
        all_greedy=True, all_random=False, generators={}, no_penalties=True, frequency_penalties=none,
        presence_penalties=none, repetition_penalties=none, output_token_ids=[[], []], bad_words_token_ids={},
        logitsprocs=LogitsProcessors([_min_tokens({})]), **nothing,
    )  # fmt: skip
    return replace(plain, **fields)


def _min_tokens(requests: dict) -> MinTokensLogitsProcessor:
    processor = MinTokensLogitsProcessor.__new__(MinTokensLogitsProcessor)
    processor.min_toks = requests
    return processor


def _custom() -> SimpleNamespace:
    return SimpleNamespace(is_argmax_invariant=lambda: False)


def test_plain_greedy_requests_need_no_sampler():
    assert only_argmax(_sampling())
    idle = SimpleNamespace(has_tracked_requests=lambda: False)
    assert only_argmax(_sampling(thinking_budget_state_holder=idle))


@pytest.mark.parametrize(
    "fields",
    [
        {"all_greedy": False},
        {"no_penalties": False},
        {"max_num_logprobs": 0},
        {"logprob_token_ids": {0: [3]}},
        {"allowed_token_ids_mask": torch.zeros(2, 5, dtype=torch.bool)},
        {"bad_words_token_ids": {1: [[3]]}},
        {"thinking_budget_state_holder": SimpleNamespace(has_tracked_requests=lambda: True)},
        {"logitsprocs": LogitsProcessors([_min_tokens({0: (3, [], {2}, False)})])},
        {"logitsprocs": LogitsProcessors([_custom()])},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_whatever_else_a_request_asks_for_goes_through_vllms_sampler(fields):
    assert not only_argmax(_sampling(**fields))
