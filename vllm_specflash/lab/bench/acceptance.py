"""Acceptance measured by serving: the target's own prompts through vLLM with the draft, read off its counters.

Made to be compared with the simulation: greedy, chains of one fixed length, no draft cut for what it costs or for how
sure the draft is.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoConfig

from vllm_specflash.config import METHOD
from vllm_specflash.lab.bench.engine import Engine
from vllm_specflash.lab.bench.engine_setup import GIB, EngineSetup
from vllm_specflash.train.answers import Answer
from vllm_specflash.train.simulate import Acceptance
from vllm_specflash.train.startup import kv_bytes

# Requests at a time; acceptance does not depend on it, only the time does.
BATCH = 8


@dataclass
class Measured:
    """Acceptance by task, and how many of the answers were the expected ones, token for token."""

    acceptance: dict[str, Acceptance]
    identical: int
    answers: int


def uncut_drafts(draft: str, chain_length: int, tree_nodes: int | None = None, lookup: bool = True) -> dict:
    """vLLM's speculative_config for chains of that length, or trees of so many nodes, whatever they cost."""
    return {
        "method": METHOD, "model": draft, "tree": tree_nodes is not None, "lookup": lookup,
        "num_speculative_tokens": tree_nodes or chain_length, "sizing": "longest", "min_confidence": 0.0,
    }  # fmt: skip


def kv_gib(target: str, max_model_len: int, dtype: str) -> float:
    """GiB of KV cache that the longest answer has room in twice, at least one."""
    bytes_per_value = 4 if dtype == "float32" else 2
    return max(1.0, 2 * max_model_len * kv_bytes(AutoConfig.from_pretrained(target), bytes_per_value) / GIB)


def measure_acceptance(
    target: str, drafts: dict, answers: list[Answer], max_model_len: int, log: Path, dtype: str = "bfloat16"
) -> Measured:
    """Ask the prompts of greedy answers again, with a speculative_config of `uncut_drafts`.

    Each is answered with at most as many tokens as the longest of the answers. A forward after the prefill counts as a
    step, as in `simulate.walk`, and a position of the chain as accepted where vLLM accepted it.

    Raises:
        EngineFailed: the engine did not start or died; the message names `log`.
    """
    images = max((len(answer.prompt.image_paths) for answer in answers), default=0)
    setup = EngineSetup(
        target, drafts, dtype, max_model_len, BATCH, kv_gib(target, max_model_len, dtype), enforce_eager=True, max_images=max(images, 1)
    )
    acceptance, identical = {}, 0
    max_tokens = max(len(answer.token_ids) for answer in answers)
    with Engine(setup, log) as engine:
        engine.result(engine.start())
        for task in sorted({answer.prompt.task for answer in answers}):
            of_task = [answer for answer in answers if answer.prompt.task == task]
            served = engine.generate([answer.prompt for answer in of_task], BATCH, max_tokens)
            acceptance[task] = Acceptance(
                steps=served.steps.request_steps,
                emitted=sum(len(output.token_ids) - 1 for output in served.outputs),
                accepted_at=torch.tensor(served.drafts.accepted_per_position),
            )
            pairs = zip(of_task, served.outputs, strict=True)
            identical += sum(answer.token_ids == output.token_ids for answer, output in pairs)
    return Measured(acceptance, identical, len(answers))
