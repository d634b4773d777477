"""Whether an engine feeds its draft right: requests run under a recorder, and what the dense forward says of the same."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from dense import DenseDraft, Finished, apart
from engines import draft_stats, greedy
from recorder import Recorder

from vllm_specflash.triton_kernels.find_copies import find_copies_torch

# Of vocabularies: no token of the tests' is above.
LARGE = 1 << 30


@dataclass
class Heard:
    """Requests of one engine, answered.

    Attributes:
        finished: in order.
        said: what the draft said in each, by target position (recorder.py).
        copies: what its text said, the same way.
        side_paths: as in recorder.py.
    """

    finished: list[Finished]
    said: list[dict[int, list]]
    copies: list[dict[int, list]]
    side_paths: int

    @property
    def answers(self) -> list[list[int]]:
        return [request.token_ids[request.prompt_length :] for request in self.finished]


def listen(llm, prompts: list, max_tokens: int, truth: Iterable[Finished] = (), one_by_one: bool = False) -> Heard:
    """Answer prompts greedily, and hear what the draft says meanwhile.

    Args:
        prompts: one may be a function of the requests finished before it.
        truth: the first of these requests, answered: their drafts are then trees with those tokens on a side path.
        one_by_one: each prompt after the one before it has been answered.

    Raises:
        AssertionError: a step failed to draft.
    """
    finished, params = [], greedy(max_tokens, ignore_eos=True)
    with Recorder(llm, dict(enumerate(request.token_ids for request in truth))) as recorder:
        for batch in [[prompt] for prompt in prompts] if one_by_one else [prompts]:
            batch = [prompt(finished) if callable(prompt) else prompt for prompt in batch]
            for prompt, output in zip(batch, llm.generate(batch, params, use_tqdm=False), strict=True):
                images = prompt.get("multi_modal_data", {}).get("image", []) if isinstance(prompt, dict) else []
                tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
                finished.append(Finished(tokens, len(output.prompt_token_ids), images))
    assert draft_stats(llm).get("errors", 0) == 0
    said, copies = ([heard[number] for number in range(len(prompts))] for heard in (recorder.said, recorder.copies))
    return Heard(finished, said, copies, recorder.side_paths)


def cache_hits(llm) -> int:
    """Tokens that vLLM took from its prefix cache so far."""
    return sum(m.value for m in llm.get_metrics() if m.name == "vllm:prefix_cache_hits")


def listen_for_hits(llm, max_tokens: int, prompts: list, truth: Iterable[Finished] = ()) -> tuple[Heard, int]:
    """Listen to prompts one after the other; and how many of their tokens came from the prefix cache."""
    before = cache_hits(llm)
    return listen(llm, prompts, max_tokens, truth, one_by_one=True), cache_hits(llm) - before


def furthest(heard: Heard, dense: DenseDraft) -> float:
    """The most that any chance, of any request and step, is from what the dense forward says.

    Raises:
        AssertionError: some step of a request asked nothing, or looked up another text than the request's own up to there.
    """
    most = 0.0
    for request, said, copies in zip(heard.finished, heard.said, heard.copies, strict=True):
        expected = dense.candidates(request)
        # Of what comes after the answer's last token, nothing is known: V2 asks once more than it needs to.
        asked = sorted(said.keys() & expected.keys())
        first = min(t for t in expected if t >= request.prompt_length - 1)
        # A step accepts at most a round or two; room may run out one such stride before the end.
        stride = 1 + dense.width * dense.draft.config.num_rounds
        stops = [first, *asked, len(request.token_ids) - 2]
        assert asked[0] == first and max(b - a for a, b in zip(stops, stops[1:])) <= stride, (first, asked)
        check_copies(request, {t: copies[t] for t in asked})
        most = max([most, *(apart(one, expected[t]) for t in asked for one in said[t])])
    return most


def check_copies(request: Finished, copies: dict[int, list]) -> None:
    """What was looked up when the token behind position t was the newest is what the finished text says up to there."""
    text = torch.tensor([request.token_ids], dtype=torch.int32)
    for t, found in copies.items():
        for one in found:
            expected = find_copies_torch(text, torch.tensor([0]), torch.tensor([t + 2]), one.tokens.shape[1], LARGE)
            assert torch.equal(one.tokens, expected.tokens) and torch.equal(one.matched, expected.matched), (t, one, expected)
