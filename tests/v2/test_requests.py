"""What single requests may ask for, all on one engine beside each other: orders, limits, stops, joining and leaving."""

import pytest
from drafts import draft_for
from engines import answers, draft_stats, greedy, runner
from v2 import engine, misrank
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["n", "ok"]}
TOKENS = 16


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
    "min tokens": greedy(TOKENS, min_tokens=12, stop_token_ids=list(range(8, 60))),
    "sampled": SamplingParams(temperature=0.9, seed=2, top_p=0.9, max_tokens=TOKENS),
    "allowed": greedy(TOKENS, allowed_token_ids=list(range(8, 48))),
    "logprobs": greedy(TOKENS, logprobs=1),
}
SETTINGS = {**IN_ORDER, **FREE}
# One of each kind after the other.
NAMES = sorted(SETTINGS, key=lambda name: (list(IN_ORDER) + list(FREE)).index(name) % len(IN_ORDER))
PROMPTS = [f"user: question number {k}, please. assistant: " for k in range(len(NAMES))]


@pytest.fixture(scope="module")
def plain(json_llama):
    """Answers to the prompts with each one's settings, and greedy ones."""
    with engine(json_llama, max_num_seqs=32) as llm:
        both = answers(llm, 2 * PROMPTS, [SETTINGS[name] for name in NAMES] + [greedy(TOKENS)] * len(PROMPTS))
        return both[: len(PROMPTS)], both[len(PROMPTS) :], llm.get_tokenizer()


@pytest.fixture(scope="module")
def llm(json_llama, plain, tmp_path_factory):
    draft = draft_for(json_llama, tmp_path_factory.mktemp("draft") / "draft", knowing=True)
    with pytest.MonkeyPatch.context() as patch:
        misrank(patch)
        with engine(json_llama, draft) as llm:
            yield llm


def test_requests_of_every_kind_in_one_batch(llm, plain):
    """Those that read drafts in order get chains, their neighbours trees; all answers are plain vLLM's."""
    core, chains, trees, done = llm.llm_engine, set(), set(), {}
    tables, slots = runner(llm).speculator.tables, runner(llm).req_states.req_id_to_index
    for name, prompt in zip(NAMES, PROMPTS):
        core.add_request(name, prompt, SETTINGS[name])
    while core.has_unfinished_requests():
        done |= {out.request_id: out.outputs[0] for out in core.step() if out.finished}
        for req_id, slot in slots.items():
            chances = tables.chances[slot, 1:]
            parents = tables.trees.parents[slot, 1:][chances > 0].tolist()
            if parents:
                name = next(name for name in SETTINGS if req_id.startswith(name))
                (chains if parents == list(range(len(parents))) else trees).add(name)
    assert {name: tuple(done[name].token_ids) for name in NAMES} == dict(zip(NAMES, plain[0]))
    assert chains == set(IN_ORDER) and trees == set(FREE)


@pytest.mark.parametrize("max_tokens", [1, 2, 3, 8, 9])
def test_max_tokens_edges(llm, plain, max_tokens):
    expected = [tokens[:max_tokens] for tokens in plain[1]]
    assert answers(llm, PROMPTS, greedy(max_tokens)) == expected


def test_stop_strings_and_stop_tokens(llm, plain):
    _, greedy_answers, tokenizer = plain
    texts = [tokenizer.decode(tokens) for tokens in greedy_answers]
    params = [SamplingParams(temperature=0, max_tokens=TOKENS, stop=[text[8:10]]) for text in texts]
    for out, text in zip(llm.generate(PROMPTS, params, use_tqdm=False), texts):
        assert out.outputs[0].text == text[: text.index(text[8:10])]
    params = [greedy(TOKENS, stop_token_ids=[tokens[9]]) for tokens in greedy_answers]
    for got, tokens in zip(answers(llm, PROMPTS, params), greedy_answers):
        assert got == tokens[: tokens.index(tokens[9]) + 1]


def test_requests_join_leave_and_are_aborted(llm, plain):
    core, waiting, done, steps = llm.llm_engine, list(range(len(PROMPTS))), {}, 0
    while waiting or core.has_unfinished_requests():
        if waiting:
            index = waiting.pop()
            core.add_request(f"join-{index}", PROMPTS[index], greedy(4 + index))
        for out in core.step():
            if out.finished and out.outputs[0].finish_reason != "abort":
                done[int(out.request_id.split("-")[1])] = tuple(out.outputs[0].token_ids)
        steps += 1
        if steps in (2, 5):
            core.abort_request([f"join-{index}"])
    gone = {len(PROMPTS) - 2, len(PROMPTS) - 5}
    assert done == {index: tokens[: 4 + index] for index, tokens in enumerate(plain[1]) if index not in gone}
    assert draft_stats(llm)["moved"] > 10
    assert not runner(llm).speculator._spans
