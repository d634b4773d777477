"""Sampled answers, logprobs and prompt logprobs, with trees: those of plain vLLM, token for token."""

import pytest
from engines import accepted_tokens, answers, draft_stats, greedy, mixed_prompts
from v2 import engine, misrank
from vllm import SamplingParams

SETTINGS = [
    {"temperature": 0.9, "top_p": 0.9},
    {"temperature": 0.9, "top_k": 5},
    {"temperature": 0.9, "top_p": 0.8, "top_k": 20},
    {"temperature": 0.7},
    {"temperature": 0.5, "logprobs": 2},
]
SEEDED = [SamplingParams(max_tokens=24, seed=k, **SETTINGS[k % len(SETTINGS)]) for k in range(len(mixed_prompts()))]
LOGPROBS = greedy(24, logprobs=4)
PROMPT_LOGPROBS = greedy(8, prompt_logprobs=2)
TEXTS = [prompt for prompt in mixed_prompts() if isinstance(prompt, str)]


@pytest.fixture(scope="module")
def plain(llava):
    """What plain vLLM says: sampled, with logprobs and with prompt logprobs."""
    with engine(llava) as llm:
        return (
            answers(llm, mixed_prompts(), SEEDED),
            llm.generate(mixed_prompts(), LOGPROBS, use_tqdm=False),
            llm.generate(TEXTS, PROMPT_LOGPROBS, use_tqdm=False),
        )


@pytest.fixture(scope="module")
def llm(llava, drafts, plain):
    with pytest.MonkeyPatch.context() as patch:
        misrank(patch)
        with engine(llava, drafts["knowing"]) as llm:
            yield llm


def test_seeded_answers_are_those_of_plain_vllm(llm, plain):
    accepted = accepted_tokens(llm)
    assert answers(llm, mixed_prompts(), SEEDED) == plain[0]
    assert accepted_tokens(llm) - accepted > 50 and draft_stats(llm)["moved"] > 30


def same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for token, logprob in found.items():
        assert logprob.logprob == pytest.approx(expected[token].logprob, abs=1e-4)
        assert logprob.rank == expected[token].rank


def test_logprobs_belong_to_the_tokens_of_the_accepted_path(llm, plain):
    found = llm.generate(mixed_prompts(), LOGPROBS, use_tqdm=False)
    assert draft_stats(llm)["moved"] > 30
    for got, want in zip(found, plain[1], strict=True):
        assert got.outputs[0].token_ids == want.outputs[0].token_ids
        assert got.outputs[0].cumulative_logprob == pytest.approx(want.outputs[0].cumulative_logprob, abs=1e-3)
        for step, plain_step in zip(got.outputs[0].logprobs, want.outputs[0].logprobs, strict=True):
            same(step, plain_step)


def test_prompt_logprobs(llm, plain):
    found = llm.generate(TEXTS, PROMPT_LOGPROBS, use_tqdm=False)
    for got, want in zip(found, plain[2], strict=True):
        assert got.outputs[0].token_ids == want.outputs[0].token_ids
        assert len(got.prompt_logprobs) == len(want.prompt_logprobs) > 0
        for step, plain_step in zip(got.prompt_logprobs[1:], want.prompt_logprobs[1:], strict=True):
            same(step, plain_step)
