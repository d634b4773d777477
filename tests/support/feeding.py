"""Whether an engine feeds its draft right: requests run under a recorder, and what the dense forward says of the same."""

from collections.abc import Iterable
from dataclasses import dataclass

from dense import DenseDraft, Finished, apart
from engines import greedy
from recorder import Recorder


@dataclass
class Heard:
    """Requests of one engine, answered.

    Attributes:
        finished: in order.
        said: what the draft said in each, by target position (recorder.py).
        side_paths: as in recorder.py.
    """

    finished: list[Finished]
    said: list[dict[int, list]]
    side_paths: int

    @property
    def answers(self) -> list[list[int]]:
        return [request.token_ids[request.prompt_length :] for request in self.finished]


def listen(llm, prompts: list, max_tokens: int, truth: Iterable[Finished] = (), one_by_one: bool = False) -> Heard:
    """Answer prompts greedily, and hear what the draft says meanwhile.

    Args:
        truth: the same requests, answered: drafts are then trees with their tokens on a side path.
        one_by_one: each prompt after the one before it has been answered.
    """
    recorder = Recorder(llm, dict(enumerate(request.token_ids for request in truth)))
    params = greedy(max_tokens, ignore_eos=True)
    batches = [[prompt] for prompt in prompts] if one_by_one else [prompts]
    outputs = [output for batch in batches for output in llm.generate(batch, params, use_tqdm=False)]
    finished = []
    for prompt, output in zip(prompts, outputs, strict=True):
        images = prompt.get("multi_modal_data", {}).get("image", []) if isinstance(prompt, dict) else []
        tokens = [*output.prompt_token_ids, *output.outputs[0].token_ids]
        finished.append(Finished(tokens, len(output.prompt_token_ids), images))
    return Heard(finished, [recorder.said[number] for number in range(len(prompts))], recorder.side_paths)


def furthest(heard: Heard, dense: DenseDraft) -> float:
    """The most that any chance, of any request and step, is from what the dense forward says.

    Raises:
        AssertionError: some step of a request asked nothing.
    """
    most = 0.0
    for request, said in zip(heard.finished, heard.said, strict=True):
        expected = dense.candidates(request)
        # Of what comes after the answer's last token, nothing is known: V2 asks once more than it needs to.
        asked = sorted(said.keys() & expected.keys())
        first = min(t for t in expected if t >= request.prompt_length - 1)
        # A step accepts at most a round or two; room may run out one such stride before the end.
        stride = 1 + dense.width * dense.draft.config.num_rounds
        stops = [first, *asked, len(request.token_ids) - 2]
        assert asked[0] == first and max(b - a for a, b in zip(stops, stops[1:])) <= stride, (first, asked)
        most = max([most, *(apart(one, expected[t]) for t in asked for one in said[t])])
    return most
