"""What single requests may ask for, all on one engine beside each other: orders, limits, stops, joining and leaving."""

import json

import pytest
import tiny_models
from engines import accepted_tokens, answers, draft_stats, greedy, runner
from tiny_models import draft_for, tiny_llama
from v2 import engine, misrank
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

SCHEMA = json.dumps({"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["n", "ok"]})
TOKENS = 24


def structured(**constraint) -> SamplingParams:
    return greedy(TOKENS, structured_outputs=StructuredOutputsParams(**constraint))


# Name -> settings of requests whose drafts are read in order.
IN_ORDER = {
    "json": structured(json=SCHEMA),
    "regex": structured(regex="[a-f]{6}(-[0-9]{4}){3}"),
    "choice": structured(choice=["neither", "either of them"]),
    "penalties": greedy(TOKENS, presence_penalty=0.8, frequency_penalty=0.4),
    "repetition": greedy(TOKENS, repetition_penalty=1.3),
    "bad words": greedy(TOKENS, bad_words=["e", "ab"]),
    "sampled penalties": SamplingParams(temperature=0.9, seed=4, max_tokens=TOKENS, presence_penalty=1.0),
}
FREE = {
    "greedy": greedy(TOKENS),
    "min tokens": greedy(TOKENS, min_tokens=20, stop_token_ids=list(range(8, 60))),
    "bias": greedy(TOKENS, logit_bias={20: 3.0, 30: 2.0}),
    "min p": SamplingParams(temperature=1.2, seed=1, min_p=0.2, max_tokens=TOKENS),
    "allowed": greedy(TOKENS, allowed_token_ids=list(range(8, 48))),
    "logprobs": greedy(TOKENS, logprobs=1),
}
NAMES = [name for pair in zip(IN_ORDER, FREE) for name in pair] + ["sampled penalties"]
PROMPTS = [f"user: question number {k}, please. assistant: " for k in range(len(NAMES))]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A tiny Llama that can write JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "CHARACTERS", tiny_models.CHARACTERS + '{}"[]')
        return tiny_llama(tmp_path_factory.mktemp("json") / "tiny-llama")


@pytest.fixture(scope="module")
def plain(target):
    with engine(target) as llm:
        ordered = answers(llm, PROMPTS, [{**IN_ORDER, **FREE}[name] for name in NAMES])
        return ordered, answers(llm, PROMPTS, greedy(TOKENS)), llm.get_tokenizer()


@pytest.fixture(scope="module")
def llm(target, plain, tmp_path_factory):
    draft = draft_for(target, tmp_path_factory.mktemp("draft") / "draft", knowing=True)
    with pytest.MonkeyPatch.context() as patch:
        misrank(patch)
        with engine(target, draft) as llm:
            yield llm


def test_requests_of_every_kind_in_one_batch(llm, plain):
    """Those that read drafts in order get chains, their neighbours trees; all answers are plain vLLM's."""
    chains, trees = set(), set()
    tables, slots = runner(llm).speculator.tables, runner(llm).req_states.req_id_to_index
    settings = {**IN_ORDER, **FREE}
    for name, prompt in zip(NAMES, PROMPTS):
        llm.llm_engine.add_request(name, prompt, settings[name])
    done = {}
    while llm.llm_engine.has_unfinished_requests():
        for out in llm.llm_engine.step():
            if out.finished:
                done[out.request_id.rsplit("-", 1)[0] if out.request_id not in settings else out.request_id] = out
        for req_id, slot in slots.items():
            name = next(name for name in sorted(settings, key=len, reverse=True) if req_id.startswith(name))
            parents, given = tables.trees.parents[slot, 1:].tolist(), tables.given[slot, 1:].tolist()
            drafted = [parent for parent, chance in zip(parents, given) if chance > 0]
            if drafted:
                (chains if drafted == list(range(len(drafted))) else trees).add(name)
    found = [tuple(done[name].outputs[0].token_ids) for name in NAMES]
    assert dict(zip(NAMES, found)) == dict(zip(NAMES, plain[0]))
    assert set(IN_ORDER) <= chains and not set(IN_ORDER) & trees
    assert set(FREE) - {"min tokens"} <= trees
    json.loads(done["json"].outputs[0].text)


def test_drafts_of_structured_outputs_are_accepted(llm, plain):
    before = accepted_tokens(llm)
    letters = SamplingParams(temperature=0, max_tokens=TOKENS, structured_outputs=StructuredOutputsParams(regex="[a-zA-Z0-9 .,:;!?]*"))
    answers(llm, PROMPTS[:4], letters)
    # The first choice is the wrong one, but for the second that chains of the misranked draft do not hold.
    assert accepted_tokens(llm) >= before


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 8, 9])
def test_max_tokens_edges(llm, plain, max_tokens):
    expected = [tokens[:max_tokens] for tokens in plain[1]]
    assert answers(llm, PROMPTS, greedy(max_tokens)) == expected


def test_stop_strings_and_stop_tokens(llm, plain):
    _, greedy_answers, tokenizer = plain
    texts = [tokenizer.decode(tokens) for tokens in greedy_answers]
    params = [SamplingParams(temperature=0, max_tokens=TOKENS, stop=[text[12:14]]) for text in texts]
    for out, text in zip(llm.generate(PROMPTS, params, use_tqdm=False), texts):
        assert out.outputs[0].text == text[: text.index(text[12:14])]
    params = [greedy(TOKENS, stop_token_ids=[tokens[11]]) for tokens in greedy_answers]
    for got, tokens in zip(answers(llm, PROMPTS, params), greedy_answers):
        assert got == tokens[: tokens.index(tokens[11]) + 1]


def test_requests_join_leave_and_are_aborted(llm, plain):
    core, waiting, done, steps = llm.llm_engine, list(range(len(PROMPTS))), {}, 0
    while waiting or core.has_unfinished_requests():
        if waiting:
            index = waiting.pop()
            core.add_request(f"join-{index}", PROMPTS[index], greedy(6 + index))
        for out in core.step():
            if out.finished and out.outputs[0].finish_reason != "abort":
                done[int(out.request_id.split("-")[1])] = tuple(out.outputs[0].token_ids)
        steps += 1
        if steps in (2, 5):
            core.abort_request([f"join-{index}"])
    gone = {len(PROMPTS) - 2, len(PROMPTS) - 5}
    assert done == {index: tokens[: 6 + index] for index, tokens in enumerate(plain[1]) if index not in gone}
    assert draft_stats(llm)["moved"] > 10
    assert not runner(llm).speculator._spans
