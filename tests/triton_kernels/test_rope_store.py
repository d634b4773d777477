"""rope_store: queries and keys turned by their positions, keys and values at their slots, nothing else touched."""

import math

import pytest
import torch

from vllm_specflash.triton_kernels.rope_store import frequencies, rope_store, rope_store_triton, rotated


def arguments(heads=6, kv_heads=2, head_dim=16, rows=5, asking=3, dtype=torch.float32, base=10000.0):
    cache = torch.randn(32, 2, kv_heads, head_dim).to(dtype)
    return dict(
        heads=torch.randn(rows, heads + 2 * kv_heads, head_dim).to(dtype),
        positions=torch.randint(0, 30000, (rows,)),
        slots=torch.randperm(31)[:rows] + 1,
        rows=torch.randint(0, rows, (asking,)),
        frequency=frequencies(head_dim, base),
        key_cache=cache[:, 0],
        value_cache=cache[:, 1],
    )


def copied(args):
    cache = torch.stack((args["key_cache"], args["value_cache"]), 1).clone()
    return args | {"key_cache": cache[:, 0], "value_cache": cache[:, 1]}


def test_what_is_stored_and_returned_is_the_formula():
    args = arguments()
    before = copied(args)
    query = rope_store(**args)
    turned = rotated(args["heads"], args["positions"], args["frequency"])
    assert torch.equal(query, turned[args["rows"], :6])
    assert torch.equal(args["key_cache"][args["slots"]], turned[:, 6:8])
    assert torch.equal(args["value_cache"][args["slots"]], args["heads"][:, 8:])
    others = torch.ones(32, dtype=torch.bool)
    others[args["slots"]] = False
    assert torch.equal(args["key_cache"][others], before["key_cache"][others])
    assert torch.equal(args["value_cache"][others], before["value_cache"][others])


def test_a_turn_is_a_rotation_by_the_angle():
    x = torch.tensor([[[1.0, 0.0, 0.0, 0.0]]])
    turned = rotated(x, torch.tensor([2]), frequencies(4, 100.0))
    assert turned[0, 0].tolist() == pytest.approx([math.cos(2), 0, math.sin(2), 0])


@pytest.mark.kernel
@pytest.mark.parametrize(
    "shape",
    [{}, {"heads": 28, "kv_heads": 4, "head_dim": 128}, {"heads": 9, "kv_heads": 3, "head_dim": 24}, {"heads": 2, "kv_heads": 9}, {"rows": 1, "asking": 1}],
    ids=["grouped", "wide", "odd half", "more keys than queries", "one row"],
)  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_kernel_agrees_with_torch_path(on_device, close, shape, dtype):
    args = arguments(**shape, dtype=dtype)
    ours = on_device(copied(args))
    query, expected = rope_store_triton(**ours), rope_store(**args)
    close(query, expected)
    for cache in ("key_cache", "value_cache"):
        close(ours[cache], args[cache])
    assert torch.equal(ours["value_cache"].cpu(), args["value_cache"])


@pytest.mark.kernel
def test_nan_of_one_row_stays_in_it(on_device):
    args = arguments(rows=3, asking=2)
    args["rows"] = torch.tensor([0, 2])
    args["heads"][1] = torch.nan
    args = on_device(args)
    query = rope_store_triton(**args)
    assert not query.isnan().any()
    for cache in (args["key_cache"], args["value_cache"]):
        assert cache[args["slots"]].isnan().flatten(1).all(1).tolist() == [False, True, False]
