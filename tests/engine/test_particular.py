"""Settings of requests that vLLM's sampler reads drafts for, one by one, beside requests that have none: all as in plain vLLM."""

import numpy as np
import pytest
from engines import accepted_tokens, answers, draft_stats, engine, greedy, runner

PROMPTS = [f"user: question {k}, please. Q assistant: " for k in "abcdefgh"]
# What a budget of thinking counts from and ends with, in the tiny targets' language.
THINKING = {"reasoning_start_str": "Q", "reasoning_end_str": "Z"}
# Over HTTP, log probabilities of certain tokens come without a number of likeliest ones. They are those before any penalty.
ASKED = [
    greedy(24, logprobs=2, logprob_token_ids=[12, 30]), greedy(24, logprob_token_ids=[9, 40, 41]), greedy(24), greedy(24, logprobs=2),
    greedy(24, logprobs=2, presence_penalty=1.5),
]  # fmt: skip
BUDGETS = [greedy(40, thinking_token_budget=budget) if budget else greedy(40) for budget in (5, 0, 9, 14, 0, 3, 22, 1)]


def ending_at(told: list[tuple[int, ...]]) -> tuple[list[str], list]:
    """Every prompt several times, with a minimum of tokens and, just behind it, a token that ends the answer."""
    asked = [(prompt, tokens, place) for prompt, tokens in zip(PROMPTS, told) for place in range(6, 20, 2)]
    settings = [greedy(24, min_tokens=place, stop_token_ids=[tokens[place + 1]]) for _, tokens, place in asked]
    return [prompt for prompt, _, _ in asked], settings


@pytest.fixture(scope="module")
def plain(llava):
    """Answers to the settings above and log probabilities, by plain vLLM."""
    with engine(llava, reasoning_config=THINKING) as llm:
        told = answers(llm, PROMPTS, greedy(24))
        asked = llm.generate(PROMPTS[: len(ASKED)], ASKED, use_tqdm=False)
        return told, asked, answers(llm, PROMPTS, BUDGETS), answers(llm, *ending_at(told))


@pytest.fixture(scope="module")
def ours(plain, llava, drafts):
    with engine(llava, drafts["knowing"], reasoning_config=THINKING) as llm:
        yield llm
        assert draft_stats(llm)["errors"] == 0


def test_log_probabilities_of_certain_tokens(plain, ours):
    for got, wanted in zip(ours.generate(PROMPTS[: len(ASKED)], ASKED, use_tqdm=False), plain[1], strict=True):
        got, wanted = got.outputs[0], wanted.outputs[0]
        assert got.token_ids == wanted.token_ids
        assert (got.logprobs is None) == (wanted.logprobs is None)
        for here, there in zip(got.logprobs or [], wanted.logprobs or [], strict=True):
            assert here.keys() == there.keys()
            for token in here:
                assert here[token].logprob == pytest.approx(there[token].logprob, abs=1e-4)


def test_budgets_of_thinking(plain, ours):
    before = accepted_tokens(ours)
    got = answers(ours, PROMPTS, BUDGETS)
    assert got == plain[2] and plain[2] != [tokens[:40] for tokens in plain[0]]
    assert accepted_tokens(ours) - before > 40


def test_an_answer_may_end_right_behind_its_minimum(plain, ours):
    assert answers(ours, *ending_at(plain[0])) == plain[3]
    assert len(set(map(len, plain[3]))) > 3


def test_what_ends_an_answer_is_never_drafted(plain, ours, monkeypatch):
    """A session that goes on behind it would count as read what was drafted after it."""
    drafted, proposed, drafter = [], [], runner(ours).drafter
    trees = drafter._drafted.trees

    def recorded(req_ids, tokens, shapes, kept, *more):
        drafts = trees(req_ids, tokens, shapes, kept, *more)
        for req_id, draft, row, mask in zip(req_ids, drafts, tokens, kept, strict=True):
            stops = drafter._drafted._stops[req_id]
            drafted.append(stops & {*draft})
            proposed.append(stops & {*np.array(row)[mask].tolist()})
        return drafts

    monkeypatch.setattr(drafter._drafted, "trees", recorded)
    got = answers(ours, PROMPTS, [greedy(24, stop_token_ids=[tokens[15]]) for tokens in plain[0]])
    assert got == [tokens[: tokens.index(tokens[15]) + 1] for tokens in plain[0]]
    assert any(proposed) and not any(drafted)
