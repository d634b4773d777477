"""Drafts accepted by chance on Model Runner V2: the walk takes first children as often as was asked for."""

import v2
from engines import accepted_tokens, greedy, runner

from vllm_specflash.engine.synthetic import ALLOWED


def test_certain_tokens_are_accepted_and_impossible_ones_never(llava, drafts, monkeypatch):
    monkeypatch.setenv(ALLOWED, "1")
    options = {"synthetic_acceptance": [1.0, 1.0, 0.0], "num_speculative_tokens": 7}
    with v2.engine(llava, drafts["random"], options) as llm:
        answers = llm.generate(["a", "b c"], greedy(16, ignore_eos=True), use_tqdm=False)
        assert runner(llm).speculator.runs_trees and runner(llm).speculator.stats.errors == 0
        # One token from the prompt, then three a step: two that were drafted and the target's own.
        assert all(len(answer.outputs[0].token_ids) == 16 for answer in answers)
        assert accepted_tokens(llm) == 2 * 10
