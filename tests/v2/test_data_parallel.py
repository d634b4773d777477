"""Two V2 engines behind vLLM's HTTP servers, asked by the openai client: answers are plain vLLM's."""

import asyncio
import json

import pytest
from engines import ALWAYS, greedy
from openai import AsyncOpenAI
from questions import MODEL, question
from serving import samples, serve
from v2 import engine

TOKENS = 10
# Of the knowing draft's chains: its K tokens in one round.
DEEPEST = 5
ENGINES = ("0", "1")
QUESTIONS = [[{"role": "user", "content": "hello, who are you?"}], question(1), [{"role": "user", "content": "0123"}]]


@pytest.fixture(scope="module")
def plain(v2_engines, llava):
    with engine(llava) as llm:
        return [out.outputs[0].text for out in llm.chat(QUESTIONS, greedy(TOKENS), use_tqdm=False)]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("server") / "log.txt"


@pytest.fixture(scope="module")
def address(plain, llava, drafts, log):
    speculation = {**ALWAYS, "model": str(drafts["knowing"]), "num_speculative_tokens": 9, "tree": True}
    options = ["--data-parallel-size", "2", "--speculative-config", json.dumps(speculation), "--dtype", "float32"]
    options += ["--enforce-eager", "--max-num-seqs", "4", "--max-model-len", "512", "--block-size", "32"]
    options += ["--kv-cache-memory-bytes", str(64 << 20), "--limit-mm-per-prompt", '{"image": 1}']
    with serve(llava, log, *options, VLLM_LOGGING_LEVEL="INFO") as address:
        yield address


def test_both_engines_answer_as_plain_vllm(address, log, plain):
    async def ask(client, messages) -> str:
        answer = await client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=TOKENS)
        return answer.choices[0].message.content

    async def all_at_once():
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", timeout=1800) as client:
            return await asyncio.gather(*(ask(client, messages) for messages in QUESTIONS * 2))

    assert asyncio.run(all_at_once()) == plain * 2
    assert log.read_text().count("Using V2 Model Runner") == len(ENGINES)
    found = samples(address)
    for rank in ENGINES:
        own = {name: value for name, labels, value in found if labels.get("engine") == rank}
        drafts, drafted, accepted = (
            own[f"vllm:spec_decode_num_{what}_total"] for what in ("drafts", "draft_tokens", "accepted_tokens")
        )
        # Trees have more nodes than positions.
        assert drafted > DEEPEST * drafts and accepted > 0
