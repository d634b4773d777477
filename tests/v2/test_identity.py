"""Greedy answers equal plain vLLM's, token for token, in float32, whatever the draft."""

import pytest
from engines import accepted_tokens, answers, draft_stats, greedy, mixed_prompts
from v2 import engine

TOKENS = 32


@pytest.mark.parametrize(
    ("name", "options", "accepted"),
    [
        ("knowing", {"num_speculative_tokens": 16}, 150),
        ("knowing", {"num_speculative_tokens": 5, "tree": False}, 150),
        ("random", {}, 1),
        ("nan", {}, 0),
        ("plain", {"num_speculative_tokens": 3}, 1),
        ("layers", {}, 100),
    ],
)
def test_any_draft_leaves_answers_identical(llava, drafts, plain_answers, name, options, accepted):
    with engine(llava, drafts[name], options) as llm:
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == plain_answers
        assert accepted_tokens(llm) >= accepted
        assert draft_stats(llm)["proposed_tokens"] > accepted_tokens(llm)


@pytest.mark.parametrize("nodes", [3, 7, 40])
def test_misranked_trees_leave_answers_identical(llava, drafts, plain_answers, misranking, nodes):
    with engine(llava, drafts["knowing"], {"num_speculative_tokens": nodes}) as llm:
        assert answers(llm, mixed_prompts(), greedy(TOKENS)) == plain_answers
        assert accepted_tokens(llm) > 100 and draft_stats(llm)["moved"] > 50
