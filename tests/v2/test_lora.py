"""LoRA beside trees: answers with an adapter are plain vLLM's with it, next to requests without."""

import pytest
from adapters import RANK, random_adapter
from engines import accepted_tokens, draft_stats, greedy, mixed_prompts
from tiny_models import VOCABULARY
from v2 import engine
from vllm.lora.request import LoRARequest

# One slot more than adapters: on CPUs vLLM 0.32 itself gives requests without one what lies in the last slot.
LORA = {"enable_lora": True, "max_loras": 3, "max_lora_rank": RANK}
PROMPTS = mixed_prompts()[:6]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """None and two adapters, in turn; of lm_head too, which is asked for a row per node."""
    root = tmp_path_factory.mktemp("adapters")
    folders = {k: random_adapter(root / str(k), seed=k, vocab_size=VOCABULARY) for k in (1, 2)}
    one, other = (LoRARequest(f"adapter-{k}", k, str(folder)) for k, folder in folders.items())
    return [(None, one, other)[k % 3] for k in range(len(PROMPTS))]


def adapted(llm, adapters):
    outputs = llm.generate(PROMPTS, greedy(24), lora_request=adapters, use_tqdm=False)
    return [tuple(out.outputs[0].token_ids) for out in outputs]


def test_adapted_answers_stay_identical(llava, drafts, adapters, plain_answers, misranking):
    with engine(llava, **LORA) as llm:
        expected = adapted(llm, adapters)
    with engine(llava, drafts["knowing"], **LORA) as llm:
        found = adapted(llm, adapters)
        assert accepted_tokens(llm) > 30 and draft_stats(llm)["moved"] > 20
    assert found == expected
    changed = [answer != plain[:24] for answer, plain in zip(found, plain_answers)]
    # The adapters matter, and only where they were asked for.
    assert not any(changed[::3]) and sum(changed) >= 3
