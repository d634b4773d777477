"""Acceptance measured by serving: the engine has room for the answers."""

import pytest
from transformers import LlamaConfig

from vllm_specflash.lab.bench.acceptance import kv_gib


@pytest.mark.parametrize(
    "length, dtype, expected", [(4096, "bfloat16", 2 * 4096 * 33 * 2 * 32 * 128 * 2 / 2**30), (256, "float32", 1.0), (4096, "float32", 8.25)]
)
def test_the_longest_answer_of_a_large_target_fits_twice(tmp_path, length, dtype, expected):
    LlamaConfig(hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=32).save_pretrained(tmp_path)
    assert kv_gib(str(tmp_path), length, dtype) == pytest.approx(expected)
