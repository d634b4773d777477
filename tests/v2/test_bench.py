"""`specflash bench` sees where a step's time goes on Model Runner V2 too, plain vLLM's and ours."""

import pytest
from engines import answers, greedy, mixed_prompts
from v2 import engine

from vllm_specflash.lab.bench.probe import PROBE


# In this order: vLLM gives the probe to a worker's class for good, and ours inherits from its own.
@pytest.mark.parametrize("name", ["knowing", None])
def test_steps_are_timed_and_answers_stay(llava, drafts, plain_answers, name):
    with engine(llava, name and drafts[name], worker_extension_cls=PROBE) as llm:
        llm.collective_rpc("bench_install")
        assert answers(llm, mixed_prompts(), greedy(32)) == plain_answers
        (steps,), (memory,) = llm.collective_rpc("bench_take"), llm.collective_rpc("bench_memory")
    decode = steps["decode"]
    assert 0 < decode["forward_seconds"] < decode["worker_seconds"] <= decode["wall_seconds"]
    assert (0 < decode["draft_seconds"] < decode["worker_seconds"]) == (name is not None)
    # Each answer's first token comes of its prompt. With asynchronous scheduling an ended answer may be in one more step.
    tokens = sum(len(answer) - 1 for answer in plain_answers)
    assert steps["draft_errors"] == 0
    assert (tokens / 4 < steps["request_steps"] < tokens) if name else (steps["request_steps"] >= tokens)
    assert memory["kv_bytes_per_slot"] > 0
