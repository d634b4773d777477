"""A step without drafts is a plain step: nothing of the draft runs, and what it missed is not there for it later."""

from collections import defaultdict
from itertools import cycle

import pytest
from dense import TOLERANCE, Finished, apart
from engines import answers, draft_stats, engine, greedy, mixed_prompts, runner
from recorder import Recorder

OPTIONS = {"num_speculative_tokens": 10, "min_confidence": 0}
# Steps with drafts, and without: the first ones read prompts, which are kept in either.
SCRIPT = [True] * 2 + [False] * 3 + [True] * 4 + [False, True, False, True, True, True] + [False] * 3


class Script:
    """Decides which steps of an engine rest, and notes what requests committed in those that decode alone.

    Attributes:
        holes: request number -> (start, end) of the positions that resting steps committed.
    """

    def __init__(self, llm, monkeypatch):
        self.runner, self.steps = runner(llm), cycle(SCRIPT)
        self.holes: dict[int, list[tuple[int, int]]] = defaultdict(list)
        self._first, self._length = llm.request_counter.counter, {}
        self._rests = self.runner.drafter.rests
        monkeypatch.setattr(self.runner.drafter, "rests", self._step)

    def _step(self, requests: int) -> bool:
        self._rests(requests)
        resting = next(self.steps)
        lengths = {req_id: self.runner.requests[req_id].num_tokens for req_id in self.runner.input_batch.req_ids}
        decodes = all(
            self.runner.requests[req_id].num_computed_tokens >= self.runner.requests[req_id].num_prompt_tokens
            for req_id in lengths
        )
        for req_id, length in lengths.items():
            if resting and decodes:
                self.holes[int(req_id.split("-")[0]) - self._first].append((self._length[req_id] - 1, length - 1))
            self._length[req_id] = length
        return resting


@pytest.mark.parametrize("settings", [{}, {"num_gpu_blocks_override": 11, "block_size": 32, "max_model_len": 192}], ids=str)
def test_drafts_go_on_from_what_was_kept(llava, noticing, dense, monkeypatch, settings):
    prompts = mixed_prompts()
    with engine(llava, **settings) as llm:
        expected = answers(llm, prompts, greedy(40, ignore_eos=True))
    with engine(llava, noticing, OPTIONS, **settings) as llm:
        script = Script(llm, monkeypatch)
        with Recorder(llm) as recorder:
            outputs = llm.generate(prompts, greedy(40, ignore_eos=True), use_tqdm=False)
        assert [tuple(out.outputs[0].token_ids) for out in outputs] == expected
        assert draft_stats(llm)["errors"] == 0
    if settings:
        # Rows of preempted requests were kept anew, which this script does not follow.
        return
    compared = 0
    for number, (prompt, out) in enumerate(zip(prompts, outputs, strict=True)):
        images = prompt.get("multi_modal_data", {}).get("image", []) if isinstance(prompt, dict) else []
        finished = Finished([*out.prompt_token_ids, *out.outputs[0].token_ids], len(out.prompt_token_ids), images)
        finished.holes = script.holes[number]
        said = recorder.said[number]
        after = {t for t in said if t < len(finished.token_ids) - 1 and finished.holes and t > finished.holes[0][1]}
        for t, candidates in dense.candidates(finished, after).items():
            assert all(apart(one, candidates) < TOLERANCE for one in said[t]), (number, t, finished.holes)
            compared += 1
    assert compared > 30


def test_a_resting_step_runs_nothing_of_the_draft(llava, noticing, monkeypatch):
    with engine(llava, noticing, OPTIONS) as llm:
        drafter, calls = runner(llm).drafter, []
        for name in ("propose", "remember", "remember_latents"):
            whole = getattr(drafter.core, name)
            monkeypatch.setattr(drafter.core, name, lambda *args, whole=whole, name=name: calls.append(name) or whole(*args))
        drafter.sizing.pause.steps = 1000
        answers(llm, mixed_prompts()[:2], greedy(24, ignore_eos=True))
        # The step that read the prompts, one of them with a picture.
        assert calls == ["remember_latents", "remember"]
        stats = draft_stats(llm)
        assert stats["paused_steps"] == stats["steps"] >= 24 and stats["decoded_tokens"] == stats["decodes"] > 40


def test_a_prompt_that_comes_while_others_rest_is_kept(llava, noticing, monkeypatch):
    """The third request takes the place of the first, in a batch where the second one decodes."""
    with engine(llava, noticing, OPTIONS, max_num_seqs=2) as llm:
        drafter, kept = runner(llm).drafter, []
        remember = drafter.core.remember
        monkeypatch.setattr(drafter.core, "remember", lambda rows: kept.append(len(rows.positions)) or remember(rows))
        drafter.sizing.pause.steps = 1000
        prompts = [{"prompt_token_ids": list(range(10, 10 + length))} for length in (9, 12, 20)]
        answers(llm, prompts, [greedy(tokens, ignore_eos=True) for tokens in (6, 24, 8)])
        # In the step that reads the third prompt the second request's newest position is kept as well.
        assert len(kept) == 2 and kept[0] == 9 + 12 and kept[1] == 20 + 1


def test_every_step_is_timed_as_what_it_was(llava, noticing, monkeypatch):
    with engine(llava, noticing, OPTIONS) as llm:
        drafter, ended = runner(llm).drafter, []
        sizing = drafter.sizing
        whole = sizing.end_step
        monkeypatch.setattr(sizing, "end_step", lambda *args: ended.append(args) or whole(*args))
        before = draft_stats(llm)
        sizing.pause.steps = 8
        answers(llm, mixed_prompts()[:2], greedy(24, ignore_eos=True))
        after = draft_stats(llm)
        assert len(ended) == after["steps"] - before["steps"]
        requests, tokens, trees, drafting, decoding = zip(*ended)
        # One step reads the prompts; then eight rest, counted from it, and the next has no drafts to verify yet.
        assert decoding == (False, *[True] * (len(ended) - 1)) and requests[:10] == (2,) * 10
        assert trees[1:9] == (None,) * 8 and trees[9] is not None
        assert tokens[1:9] == (2,) * 8 and tokens[9] == len(trees[9].parents) > 2
        assert sum(drafting) == pytest.approx(after["seconds"] - before["seconds"]) and drafting[1:8] == (0,) * 7
        # The first of either answer's 24 tokens is the prompt's step's.
        assert after["decoded_tokens"] - before["decoded_tokens"] == 2 * 23
