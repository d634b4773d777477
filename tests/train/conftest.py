"""A tiny target, and answers that it gave itself."""

import pytest
import torch
from tiny_models import tiny_llama, tiny_llava, tiny_qwen2_5_vl

from vllm_specflash.train.answers import Answer
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.target import Target


@pytest.fixture(scope="session")
def llama(tmp_path_factory) -> Target:
    return Target(str(tiny_llama(tmp_path_factory.mktemp("llama"))), torch.float32)


@pytest.fixture(scope="session")
def llava(tmp_path_factory) -> Target:
    return Target(str(tiny_llava(tmp_path_factory.mktemp("llava"))), torch.float32)


@pytest.fixture(scope="session")
def qwen2_5_vl(tmp_path_factory) -> Target:
    return Target(str(tiny_qwen2_5_vl(tmp_path_factory.mktemp("qwen2_5_vl"))), torch.float32)


@torch.no_grad()
def _greedy_answer(target: Target, prompt: Prompt, count: int) -> Answer:
    """What the target says first, `count` tokens of it."""
    encoding = target.family.encode(prompt)
    ids = encoding.input_ids[None]
    pixels = target.family.batch_pixels([encoding.pixels])
    for _ in range(count):
        logits = target.model(input_ids=ids, use_cache=False, **pixels).logits[:, -1]
        ids = torch.cat((ids, logits.argmax(-1, keepdim=True)), dim=1)
    return Answer(prompt, ids[0, len(encoding.input_ids) :].tolist(), "", 0.0)


@pytest.fixture(scope="session")
def greedy_answer():
    return _greedy_answer


@pytest.fixture(scope="session")
def llama_answers(llama) -> list[Answer]:
    prompts = [Prompt(f"p{i}", "chat", [{"role": "user", "content": "tell me about " + "abcdefgh"[i]}]) for i in range(8)]
    return [_greedy_answer(llama, prompt, 20 + i) for i, prompt in enumerate(prompts)]
