"""What single requests may ask for, on one engine that serves them all: limits, stops, penalties, joining and leaving."""

import pytest
from engines import answers, draft_stats, engine, greedy, mixed_prompts
from vllm import SamplingParams

from vllm_specflash.engine.v1.sampler import NodeSampler

PARTICULAR = [
    greedy(presence_penalty=0.8, frequency_penalty=0.4),
    greedy(repetition_penalty=1.3),
    greedy(min_tokens=10),
    greedy(bad_words=["e"]),
    greedy(logprobs=3),
]


@pytest.fixture(scope="module")
def plain_particular(llava):
    with engine(llava) as llm:
        return llm.generate(mixed_prompts()[: len(PARTICULAR)], PARTICULAR, use_tqdm=False)


# Asks for what plain engines say first: one process holds one engine at a time.
@pytest.fixture(scope="module")
def shared_engine(plain_answers, plain_particular, llava, drafts):
    with engine(llava, drafts["knowing"], {"num_speculative_tokens": 5}) as llm:
        yield llm
        assert draft_stats(llm)["errors"] == 0


@pytest.mark.parametrize("max_tokens", [1, 2, 5, 6, 7])
def test_max_tokens_edges(shared_engine, plain_answers, max_tokens):
    expected = [tokens[:max_tokens] for tokens in plain_answers]
    assert answers(shared_engine, mixed_prompts(), greedy(max_tokens)) == expected


def test_steps_of_plain_greedy_requests_do_not_ask_vllms_sampler(shared_engine, plain_answers, monkeypatch):
    asked, at_drafts = [], NodeSampler._at_drafts
    monkeypatch.setattr(NodeSampler, "_at_drafts", lambda *args: asked.append(args) or at_drafts(*args))
    assert answers(shared_engine, mixed_prompts()[:2], greedy(12)) == [tokens[:12] for tokens in plain_answers[:2]]
    assert not asked
    answers(shared_engine, mixed_prompts()[:2], greedy(12, logprobs=1))
    assert asked


def test_stop_strings_and_stop_tokens(shared_engine, plain_answers):
    prompts = mixed_prompts()
    texts = [out.outputs[0].text for out in shared_engine.generate(prompts, greedy(), use_tqdm=False)]
    params = [SamplingParams(temperature=0, max_tokens=48, stop=[text[20:22]]) for text in texts]
    stopped = shared_engine.generate(prompts, params, use_tqdm=False)
    for out, text in zip(stopped, texts):
        assert out.outputs[0].text == text[: text.index(text[20:22])]
    params = [greedy(stop_token_ids=[tokens[17]]) for tokens in plain_answers]
    for got, tokens in zip(answers(shared_engine, prompts, params), plain_answers):
        assert got == tokens[: tokens.index(tokens[17]) + 1]


def test_requests_join_and_leave_a_running_batch(shared_engine, plain_answers):
    prompts, core = mixed_prompts(), shared_engine.llm_engine
    waiting, done = list(range(len(prompts))), {}
    while waiting or core.has_unfinished_requests():
        if waiting:
            index = waiting.pop()
            core.add_request(f"join-{index}", prompts[index], greedy(10 + 3 * index))
        for out in core.step():
            if out.finished:
                done[int(out.request_id.split("-")[1])] = tuple(out.outputs[0].token_ids)
    assert done == {index: tokens[: 10 + 3 * index] for index, tokens in enumerate(plain_answers)}


def test_penalties_bad_words_and_logprobs_match_plain(shared_engine, plain_particular):
    prompts = mixed_prompts()[: len(PARTICULAR)]
    for got, want in zip(shared_engine.generate(prompts, PARTICULAR, use_tqdm=False), plain_particular):
        assert got.outputs[0].token_ids == want.outputs[0].token_ids
    for step, plain_step in zip(got.outputs[0].logprobs, want.outputs[0].logprobs):
        assert step.keys() == plain_step.keys()
        for token in step:
            assert step[token].logprob == pytest.approx(plain_step[token].logprob, abs=1e-4)
