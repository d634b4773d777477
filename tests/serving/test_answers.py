"""Behind the OpenAI API, with the `openai` client: what is asked for is what plain vLLM would answer."""

import asyncio
import time

import pytest
from engines import engine
from openai import AsyncOpenAI
from questions import MODEL, data_url, image, mixed_questions, question
from serving import counter
from vllm import SamplingParams
from vllm.sampling_params import StructuredOutputsParams

PATTERN = "[0-9]{3}-[a-z]{5}-[A-Z]{4}"
GREEDY = SamplingParams(temperature=0, max_tokens=32)
SEEDED = SamplingParams(temperature=0.7, seed=11, n=3, max_tokens=32)
WITH_LOGPROBS = SamplingParams(temperature=0, max_tokens=32, logprobs=3)
STRUCTURED = SamplingParams(temperature=0, max_tokens=32, structured_outputs=StructuredOutputsParams(regex=PATTERN))


@pytest.fixture(scope="module")
def plain(image_target):
    """Plain vLLM's answers by what was asked for, one per mixed question."""
    with engine(image_target) as llm:

        def outputs(params):
            return [out.outputs for out in llm.chat(mixed_questions(), params, use_tqdm=False)]

        return {
            "greedy": [choices[0].text for choices in outputs(GREEDY)],
            "seeded": [[choice.text for choice in choices] for choices in outputs(SEEDED)],
            "logprobs": [choices[0].logprobs for choices in outputs(WITH_LOGPROBS)],
            "structured": [choices[0].text for choices in outputs(STRUCTURED)],
        }


def test_pictures_by_data_url(ask, plain):
    answers = [ask(messages).choices[0].message.content for messages in mixed_questions()]
    assert answers == plain["greedy"]


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "GIF"])
def test_other_formats(ask, format):
    messages = [{"role": "user", "content": [image(data_url(1, format)), {"type": "text", "text": "what?"}]}]
    assert ask(messages).usage.completion_tokens == 32


def test_streams_of_concurrent_clients_do_not_mix(server, plain):
    async def stream(client, messages) -> str:
        pieces = await client.chat.completions.create(
            model=MODEL, messages=messages, temperature=0, max_tokens=32, stream=True
        )
        return "".join([piece.choices[0].delta.content or "" async for piece in pieces if piece.choices])

    async def all_at_once():
        async with AsyncOpenAI(base_url=f"{server}/v1", api_key="none") as client:
            return await asyncio.gather(*(stream(client, messages) for messages in mixed_questions() * 4))

    assert asyncio.run(all_at_once()) == plain["greedy"] * 4


def test_usage_of_a_stream_counts_every_token(client):
    pieces = list(
        client.chat.completions.create(
            model=MODEL, messages=question(1), temperature=0, max_tokens=32, stream=True,
            stream_options={"include_usage": True},
        )  # fmt: skip
    )
    assert pieces[-1].usage.completion_tokens == 32
    assert [piece.choices[0].finish_reason for piece in pieces if piece.choices][-1] == "length"


def test_several_seeded_answers(ask, plain):
    for messages, expected in zip(mixed_questions(), plain["seeded"], strict=True):
        answer = ask(messages, temperature=0.7, seed=11, n=3)
        assert [choice.message.content for choice in answer.choices] == expected
        assert len(set(expected)) > 1


def test_structured_output(server, ask, plain):
    accepted = counter(server, "vllm:spec_decode_num_accepted_tokens")
    extra = {"structured_outputs": {"regex": PATTERN}}
    answers = [ask(messages, extra_body=extra).choices[0].message.content for messages in mixed_questions()]
    assert answers == plain["structured"]
    assert all(len(answer) == 14 and answer[3] == answer[9] == "-" for answer in answers)
    assert counter(server, "vllm:spec_decode_num_accepted_tokens") >= accepted


def test_logprobs_are_the_targets(ask, plain):
    for messages, expected in zip(mixed_questions(), plain["logprobs"], strict=True):
        found = ask(messages, logprobs=True, top_logprobs=3).choices[0].logprobs.content
        assert len(found) == 32
        for entry, position in zip(found, expected, strict=True):
            assert len(entry.top_logprobs) == 3
            assert entry.logprob == pytest.approx(max(top.logprob for top in position.values()), abs=1e-4)


def test_a_shared_prefix_is_computed_once(server, ask):
    """Blocks of words, then an image in the next one."""
    words = {"type": "text", "text": "words and more words. " * 8}
    messages = [{"role": "user", "content": [words, image(data_url(21)), {"type": "text", "text": "what?"}]}]
    first = ask(messages).choices[0].message.content
    hits = counter(server, "vllm:prefix_cache_hits")
    assert ask(messages).choices[0].message.content == first
    assert counter(server, "vllm:prefix_cache_hits") >= hits + 128


def test_clients_that_go_away_leave_nothing(server, client, ask, plain):
    for pieces_read in (0, 1, 3):
        stream = client.chat.completions.create(
            model=MODEL, messages=question(3), temperature=0, max_tokens=400, stream=True
        )
        for _ in zip(range(pieces_read), stream):
            pass
        stream.close()
    deadline = time.monotonic() + 60
    held = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    while any(counter(server, name) for name in held):
        assert time.monotonic() < deadline, {name: counter(server, name) for name in held}
        time.sleep(0.1)
    assert ask(mixed_questions()[1]).choices[0].message.content == plain["greedy"][1]
