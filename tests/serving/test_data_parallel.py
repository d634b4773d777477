"""Two engines behind two API servers, with LoRA: vLLM's default for `--data-parallel-size 2`."""

import asyncio
import json
from itertools import pairwise

import pytest
from adapters import RANK, random_adapter
from engines import ALWAYS, engine
from openai import AsyncOpenAI
from questions import MODEL, mixed_questions
from serving import samples, serve
from vllm import SamplingParams
from vllm.lora.request import LoRARequest

from vllm_specflash.engine.stats import ACCEPTANCE_LENGTH, PREFIX, DraftStats

# The deepest tree of the tiny drafts: their K tokens in one round.
DEEPEST = 5
# One slot more than adapters, as in tests/engine/test_lora.py.
LORA = {"enable_lora": True, "max_loras": 2, "max_lora_rank": RANK}
GREEDY = SamplingParams(temperature=0, max_tokens=32)
ENGINES = ("0", "1")


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    return random_adapter(tmp_path_factory.mktemp("adapters") / "adapter")


@pytest.fixture(scope="module")
def plain(image_target, adapter):
    """Plain vLLM's answers by the name of the model asked for."""
    with engine(image_target, **LORA) as llm:

        def texts(request):
            outputs = llm.chat(mixed_questions(), GREEDY, lora_request=request, use_tqdm=False)
            return [out.outputs[0].text for out in outputs]

        return {MODEL: texts(None), "adapter": texts(LoRARequest("adapter", 1, str(adapter)))}


@pytest.fixture(scope="module")
def address(image_target, adapter, tmp_path_factory):
    # Copies may go deeper than the draft's own tokens.
    drafts = json.dumps(ALWAYS | {"lookup": False})
    options = ["--data-parallel-size", "2", "--speculative-config", drafts, "--dtype", "float32", "--enforce-eager"]
    # With LoRA vLLM wants all drafts of all requests to fit into a step.
    options += ["--max-num-seqs", "16", "--max-model-len", "512", "--kv-cache-memory-bytes", str(64 << 20)]
    options += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", str(RANK)]
    options += ["--lora-modules", f"adapter={adapter}"]
    with serve(image_target, tmp_path_factory.mktemp("server") / "log.txt", *options) as address:
        yield address


@pytest.fixture(scope="module")
def answered(address):
    """Answers by model, all asked for at once, three times over, so that both engines have enough to do."""

    async def ask(client, model, messages) -> str:
        answer = await client.chat.completions.create(model=model, messages=messages, temperature=0, max_tokens=32)
        return answer.choices[0].message.content

    async def all_at_once(model):
        # A client keeps its connections, and each connection its API server; these go to either.
        async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none") as client:
            return await asyncio.gather(*(ask(client, model, messages) for messages in mixed_questions() * 3))

    async def all_models():
        return dict(zip((MODEL, "adapter"), await asyncio.gather(all_at_once(MODEL), all_at_once("adapter"))))

    return asyncio.run(all_models())


def test_answers_are_plain_vllms(answered, plain):
    assert answered[MODEL] == plain[MODEL] * 3


def test_answers_with_an_adapter_are_plain_vllms_with_it(answered, plain):
    assert answered["adapter"] == plain["adapter"] * 3
    # The adapter matters.
    assert sum(adapted != other for adapted, other in zip(plain["adapter"], plain[MODEL], strict=True)) >= 3


def _by_engine(found, name: str) -> dict[str, float]:
    of_engines = [(labels, value) for sample, labels, value in found if sample == name]
    assert all(labels == {"model_name": MODEL, "engine": labels["engine"]} for labels, _ in of_engines)
    return {labels["engine"]: value for labels, value in of_engines}


def test_both_engines_drafted_and_say_so(answered, address):
    found = samples(address)
    own = {name: _by_engine(found, f"{metric}_total") for name, metric, _ in DraftStats.described()}
    drafted, accepted = (
        _by_engine(found, f"vllm:spec_decode_num_{name}_tokens_total") for name in ("draft", "accepted")
    )
    lengths = _by_engine(found, ACCEPTANCE_LENGTH)
    for rank in ENGINES:
        assert own["proposed_tokens"][rank] >= drafted[rank] > accepted[rank] > 0
        assert own["decoded_tokens"][rank] - own["decodes"][rank] == accepted[rank]
        assert own["errors"][rank] == 0
        assert 1 < lengths[rank] < 7
    # Every answer's first token comes from its prompt; the prompts' pictures are cached when they come again.
    assert sum(own["decoded_tokens"].values()) == 2 * 3 * len(mixed_questions()) * 31
    assert sum(own["visual_tokens"].values()) >= 8 * 16


def test_vllms_counters_are_right_for_trees(answered, address):
    found = samples(address)
    drafts, drafted, accepted = (
        _by_engine(found, f"vllm:spec_decode_num_{name}_total")
        for name in ("drafts", "draft_tokens", "accepted_tokens")
    )
    by_position = {
        (labels["engine"], int(labels["position"])): value
        for name, labels, value in found
        if name == "vllm:spec_decode_num_accepted_tokens_per_pos_total"
    }
    for rank in ENGINES:
        # Trees have more nodes than positions.
        assert drafted[rank] > DEEPEST * drafts[rank]
        counts = [by_position[rank, position] for position in range(len(by_position) // len(ENGINES))]
        assert sum(counts) == accepted[rank] and counts[0] <= drafts[rank]
        # Positions are depths, whichever node was accepted there.
        assert all(shallow >= deep for shallow, deep in pairwise(counts))
        assert counts[DEEPEST - 1] > 0 and not any(counts[DEEPEST:])


def test_every_api_server_tells_the_same(answered, address):
    """Connections fall to either of the two."""

    def told():
        return {(name, labels["engine"], value) for name, labels, value in samples(address) if name.startswith(PREFIX)}

    first = told()
    assert len(first) == len(ENGINES) * (len(DraftStats.described()) + 1)
    assert all(told() == first for _ in range(8))
