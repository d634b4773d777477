"""Grammars and drafts: what a grammar allows is drafted and accepted, what it forbids is not, with asynchronous scheduling."""

import json

import pytest
from drafts import draft_for
from engines import accepted_tokens, answers, greedy
from v2 import engine
from vllm.sampling_params import StructuredOutputsParams

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "ok": {"type": "boolean"}}, "required": ["n", "ok"]}
ANYTHING = "[a-zA-Z0-9 .,:;!?'\\n{}\"\\[\\]+-]*"
CONSTRAINTS = [
    {"regex": ANYTHING},
    # Every other word of the target's is forbidden: drafts are cut short.
    {"regex": "([a-m ]{2}[n-z.]){8}"},
    {"regex": "[a-f]{6}(-[0-9]{4}){3}"},
    {"choice": ["neither", "either of them"]},
    {"json": json.dumps(SCHEMA)},
]
PARAMS = [greedy(24, structured_outputs=StructuredOutputsParams(**constraint)) for constraint in CONSTRAINTS] + [greedy(24)]
PROMPTS = [f"user: question number {k}, please. assistant: " for k in range(len(PARAMS))]


@pytest.mark.parametrize("tree", [True, False])
def test_answers_are_plain_vllms(json_llama, plain, tmp_path, tree):
    draft = draft_for(json_llama, tmp_path / "draft", knowing=True)
    with engine(json_llama, draft, {"tree": tree}) as llm:
        assert answers(llm, PROMPTS, PARAMS) == plain


def test_what_a_grammar_allows_is_accepted_as_without_it(json_llama, plain, tmp_path):
    draft = draft_for(json_llama, tmp_path / "draft", knowing=True)
    anything = greedy(24, structured_outputs=StructuredOutputsParams(regex=ANYTHING))
    with engine(json_llama, draft, {"tree": False}) as llm:
        free = answers(llm, PROMPTS, greedy(24))
        accepted = accepted_tokens(llm)
        assert answers(llm, PROMPTS, anything) == free
        assert accepted_tokens(llm) - accepted == pytest.approx(accepted, abs=4) and accepted > 20


@pytest.fixture(scope="module")
def plain(json_llama):
    with engine(json_llama) as llm:
        found = answers(llm, PROMPTS, PARAMS)
        text = llm.get_tokenizer().decode(found[3], skip_special_tokens=True)
        assert text in ("neither", "either of them")
        return found
