"""LoRA beside speculation: answers with an adapter are plain vLLM's with it, next to requests without."""

import pytest
from adapters import RANK, random_adapter
from engines import PAYING, accepted_tokens, draft_stats, engine, greedy, mixed_prompts, runner
from vllm.lora.request import LoRARequest

# One slot more than adapters: on CPUs vLLM 0.32 itself gives requests without one what lies in the last slot.
LORA = {"enable_lora": True, "max_loras": 3, "max_lora_rank": RANK}


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """None and two adapters, in turn."""
    root = tmp_path_factory.mktemp("adapters")
    one, other = (LoRARequest(f"adapter-{k}", k, str(random_adapter(root / str(k), seed=k))) for k in (1, 2))
    return [(None, one, other)[k % 3] for k in range(len(mixed_prompts()))]


def _answers(llm, adapters):
    outputs = llm.generate(mixed_prompts(), greedy(), lora_request=adapters, use_tqdm=False)
    return [tuple(out.outputs[0].token_ids) for out in outputs]


@pytest.fixture(scope="module")
def adapted_answers(llava, adapters):
    with engine(llava, **LORA) as llm:
        return _answers(llm, adapters)


def test_adapted_answers_stay_identical(llava, drafts, adapters, plain_answers, adapted_answers):
    # Sizing "auto" times the adapted lm_head when the engine starts.
    with engine(llava, drafts["knowing"], {"sizing": "auto"}, **LORA) as llm:
        runner(llm).drafter.sizing.step_cost = PAYING
        found = _answers(llm, adapters)
        stats = draft_stats(llm)
        assert stats["errors"] == 0 and stats["visual_tokens"] > 0
        assert accepted_tokens(llm) > 50
    assert found == adapted_answers
    changed = [answer != plain for answer, plain in zip(found, plain_answers, strict=True)]
    # The adapters matter, and only where they were asked for.
    assert not any(changed[::3]) and sum(changed) >= 4
