"""Drafts copy what the text has read before, on Model Runner V2 (tests/engine/test_lookup.py has the same for V1)."""

import functools

import pytest
from engines import accepted_tokens, answers, deepest_accepted, greedy, mixed_prompts
from tiny_models import VOCABULARY, successor
from v2 import engine

LOOKUP = {"lookup": True}
# Of the tiny target, which before long repeats itself.
TOKENS = 64
PROMPTS = mixed_prompts()[:4]


@pytest.fixture(scope="module")
def long_answers(v2_engines, llava):
    with engine(llava) as llm:
        return answers(llm, PROMPTS, greedy(TOKENS))


@pytest.mark.parametrize(
    ("draft", "options"),
    [("random", {"num_speculative_tokens": 16}), ("nan", {"num_speculative_tokens": 12, "tree": False})],
    ids=str,
)
def test_a_draft_that_knows_nothing_is_accepted_where_the_text_repeats_itself(llava, drafts, long_answers, draft, options):
    with engine(llava, drafts[draft], LOOKUP | options) as llm:
        assert answers(llm, PROMPTS, greedy(TOKENS)) == long_answers
        assert accepted_tokens(llm) > sum(map(len, long_answers)) / 4
        # Far beyond the draft's own tokens.
        assert deepest_accepted(llm) == options["num_speculative_tokens"]


def test_what_reads_drafts_in_order_is_judged_by_its_own_history(llava, drafts):
    """Behind a copy that the target rejects the list is filled up: with nothing that could be accepted in the copy's place."""
    follows, cycle = successor(VOCABULARY).tolist(), [10]
    while len(cycle) < 60:
        cycle.append(follows[cycle[-1]])
    # Four tokens as the target says them, then what it will say later: that is copied, and penalised where it counts as said.
    misleading = [token for k in range(0, 48, 4) for token in (*cycle[k : k + 4], *cycle[k + 5 : k + 9])]
    prompts = [{"prompt_token_ids": [1, *misleading, start]} for start in cycle[:24:6]]
    settings = [greedy(32, presence_penalty=2.0), greedy(32, repetition_penalty=1.6)]
    asked = [prompt for prompt in prompts for _ in settings], len(prompts) * settings
    with engine(llava, max_num_seqs=12) as llm:
        expected = answers(llm, *asked)
    with engine(llava, drafts["knowing"], LOOKUP | {"num_speculative_tokens": 24}, max_num_seqs=12) as llm:
        assert answers(llm, *asked) == expected
        assert accepted_tokens(llm) > 50


def test_copies_beside_prefill_chunks(llava, drafts, long_answers):
    with engine(llava, drafts["knowing"], LOOKUP, max_num_batched_tokens=23, max_num_seqs=2) as llm:
        assert answers(llm, PROMPTS, greedy(TOKENS)) == long_answers
        assert accepted_tokens(llm) > 100


@pytest.mark.parametrize("lookup, most, on_device", [(True, 1 << 30, True), (True, 1024, False), (False, 1 << 30, False)])
def test_texts_lie_on_the_device_where_they_are_looked_up(v2_engines, llava, drafts, monkeypatch, lookup, most, on_device):
    """Elsewhere vLLM asks for them in pinned host memory, which a CPU has none of."""
    from vllm.v1.worker.gpu import states

    from vllm_specflash.engine.v2 import texts

    asked = []

    @functools.wraps(states.StagedWriteTensor)
    def tensor(*args, uva_instead_of_gpu=False, **more):
        asked.append(uva_instead_of_gpu)
        return staged(*args, uva_instead_of_gpu=uva_instead_of_gpu, **more)

    staged = states.StagedWriteTensor
    monkeypatch.setattr(states, "StagedWriteTensor", tensor)
    monkeypatch.setattr(texts, "MOST_BYTES", most)
    with engine(llava, drafts["random"], {"lookup": lookup}):
        assert asked and asked[0] != on_device
