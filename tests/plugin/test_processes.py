"""Engines in processes of their own: `LLM` with a spawned engine, and `vllm serve` with the `openai` client."""

import base64
import io

import pytest
from engines import ALWAYS, SMALL, accepted_tokens, answers, draft_stats, engine, greedy, noise_image
from openai import OpenAI
from serving import counter
from vllm import LLM

PROMPTS = ["hello there", "0123456789", "user: who? assistant: "]


@pytest.fixture(scope="module")
def plain_answers(text_target):
    with engine(text_target) as llm:
        return answers(llm, PROMPTS, greedy(24))


def test_spawned_engine_drafts_and_answers_the_same(text_target, plain_answers, monkeypatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    monkeypatch.setenv("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
    llm = LLM(str(text_target), speculative_config=ALWAYS, **SMALL)
    try:
        assert answers(llm, PROMPTS, greedy(24)) == plain_answers
        stats = draft_stats(llm)
        assert stats["proposed_tokens"] > 0 and stats["errors"] == 0
        assert accepted_tokens(llm) > 0
    finally:
        llm.llm_engine.engine_core.shutdown()


def _data_url(seed: int) -> str:
    buffer = io.BytesIO()
    noise_image(seed).save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _question(*seeds: int) -> list[dict]:
    images = [{"type": "image_url", "image_url": {"url": _data_url(seed)}} for seed in seeds]
    return [{"role": "user", "content": [*images, {"type": "text", "text": " what is this?"}]}]


def test_serving_an_image_question_drafts(server):
    client = OpenAI(base_url=f"{server}/v1", api_key="none")
    before = counter(server, "vllm:spec_decode_num_accepted_tokens")
    answer = client.chat.completions.create(model="tiny", messages=_question(1), temperature=0, max_tokens=32)
    assert answer.usage.completion_tokens == 32
    assert counter(server, "vllm:spec_decode_num_accepted_tokens") > before


def test_serving_streams_the_same_answer(server):
    client = OpenAI(base_url=f"{server}/v1", api_key="none")
    asked = {"model": "tiny", "messages": _question(1, 2), "temperature": 0, "max_tokens": 32}
    whole = client.chat.completions.create(**asked).choices[0].message.content
    pieces = [piece.choices[0].delta.content or "" for piece in client.chat.completions.create(**asked, stream=True)]
    assert "".join(pieces) == whole
    # Several accepted tokens arrive in one piece.
    assert 1 < len([piece for piece in pieces if piece]) < 32


def test_metrics_count_drafts_per_position(server):
    assert counter(server, "vllm:spec_decode_num_drafts") > 0
    assert counter(server, "vllm:spec_decode_num_draft_tokens") >= counter(server, "vllm:spec_decode_num_accepted_tokens")
    assert counter(server, "vllm:spec_decode_num_accepted_tokens_per_pos") > 0
