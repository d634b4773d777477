"""Sampled answers have the target's own distribution, with drafts that are often right and often wrong."""

from collections import Counter

import pytest
import torch
from drafts import draft_for
from engines import accepted_tokens, draft_stats, engine
from tiny_models import tiny_llama
from transformers import AutoModelForCausalLM
from vllm import SamplingParams

ENGINE = {"skip_tokenizer_init": True, "max_num_seqs": 64}
DRAWS = 3000
# Ordinary tokens of a vocabulary of 24.
PROMPT = [20, 9, 18, 17]
SETTINGS = [
    {"temperature": 1.0},
    {"temperature": 0.6},
    {"temperature": 1.5, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 5},
]


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    """A target of 24 tokens, soft enough to be sampled from."""
    return tiny_llama(tmp_path_factory.mktemp("small") / "small-vocabulary", vocab_size=24, gain=0.25)


def ask(llm, params):
    prompts = [{"prompt_token_ids": PROMPT}] * len(params)
    return [tuple(out.outputs[0].token_ids) for out in llm.generate(prompts, params, use_tqdm=False)]


def seeded_params():
    return [
        SamplingParams(max_tokens=30, ignore_eos=True, detokenize=False, seed=seed, **settings)
        for seed in range(8)
        for settings in [*SETTINGS, {"temperature": 0.8, "presence_penalty": 1.0, "repetition_penalty": 1.2}]
    ]


@pytest.fixture(scope="module")
def plain_seeded(target):
    with engine(target, **ENGINE) as llm:
        return ask(llm, seeded_params())


@pytest.fixture(scope="module")
def llm(target, plain_seeded, tmp_path_factory):
    draft = draft_for(target, tmp_path_factory.mktemp("draft") / "draft", knowing=True)
    with engine(target, draft, {"num_speculative_tokens": 4, "min_confidence": 0}, **ENGINE) as llm:
        yield llm
        stats = draft_stats(llm)
        assert stats["errors"] == 0
        assert 1000 < accepted_tokens(llm) < stats["proposed_tokens"]


def test_seeded_answers_are_those_of_plain_vllm(llm, plain_seeded):
    assert ask(llm, seeded_params()) == plain_seeded


def exact_distribution(target, prompt, params) -> torch.Tensor:
    """Probabilities [V] of the token after `prompt`, by transformers and our own reading of the parameters."""
    model = AutoModelForCausalLM.from_pretrained(target)
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double() / params.temperature
    probabilities = logits.softmax(-1)
    if params.top_k > 0:
        probabilities[probabilities < probabilities.topk(params.top_k).values[-1]] = 0
    if params.top_p < 1:
        ordered, index = (probabilities / probabilities.sum()).sort(descending=True)
        cut = ordered.cumsum(0) - ordered >= params.top_p
        probabilities[index[cut]] = 0
    return probabilities / probabilities.sum()


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_every_position_has_the_targets_distribution(llm, target, settings):
    params = SamplingParams(max_tokens=3, ignore_eos=True, detokenize=False, **settings)
    samples = ask(llm, [params] * DRAWS)
    prefix = ()
    # The first token is sampled without a draft; the next two are compared where those before are the likeliest.
    for position in range(3):
        observed = Counter(sample[position] for sample in samples if sample[:position] == prefix)
        assert_same_distribution(observed, exact_distribution(target, [*PROMPT, *prefix], params))
        prefix += (observed.most_common(1)[0][0],)


def assert_same_distribution(observed: Counter, expected: torch.Tensor) -> None:
    total = sum(observed.values())
    counts = torch.tensor([observed.get(token, 0) for token in range(len(expected))], dtype=torch.float64)
    assert counts[expected == 0].sum() == 0
    # Rare tokens are counted together, as chi-square wants five expected draws in every cell.
    common = expected * total >= 5
    cells = torch.cat((counts[common], counts[~common].sum().view(1)))
    wanted = torch.cat((expected[common], expected[~common].sum().view(1))) * total
    if wanted[-1] < 5:
        cells[-2] += cells[-1]
        wanted[-2] += wanted[-1]
        cells, wanted = cells[:-1], wanted[:-1]
    statistic = ((cells - wanted) ** 2 / wanted).sum()
    p_value = torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2, dtype=torch.float64), statistic / 2)
    assert p_value > 1e-4
