"""The kernels that other tests of this folder leave to their torch paths, in the engine: answers stay plain vLLM's."""

import importlib

from engines import accepted_tokens, answers, draft_stats, greedy, mixed_prompts
from v2 import SLOW, engine

PROMPTS = slice(1, 4, 2)


def test_every_kernel_interpreted(llava, drafts, plain_answers, misranking, monkeypatch):
    launched = set()
    for operation in SLOW:
        module = importlib.import_module(f"vllm_specflash.triton_kernels.{operation}")
        monkeypatch.setattr(module, "launches", lambda tensor, operation=operation: launched.add(operation) or True)
    with engine(llava, drafts["knowing"], {"num_speculative_tokens": 5}) as llm:
        expected = [tokens[:12] for tokens in plain_answers[PROMPTS]]
        assert answers(llm, mixed_prompts()[PROMPTS], greedy(12)) == expected
        assert accepted_tokens(llm) > 8 and draft_stats(llm)["moved"] > 4
    assert launched == set(SLOW)


def test_vllms_own_attention_takes_what_is_left_of_the_batch(llava, drafts, plain_answers, misranking, vllms_kernels):
    """Prompts of more rows than a tree has nodes, beside trees and on their own."""
    with engine(llava, drafts["knowing"], max_num_batched_tokens=24, max_num_seqs=2) as llm:
        assert answers(llm, mixed_prompts()[:2], greedy(12)) == [tokens[:12] for tokens in plain_answers[:2]]
        assert draft_stats(llm)["moved"] > 2
