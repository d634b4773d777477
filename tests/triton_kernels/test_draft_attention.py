"""draft_attention: each row attends to exactly the slots and in-memory rows it may see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.triton_kernels.draft_attention import (
    draft_attention,
    draft_attention_torch,
    draft_attention_triton,
)

SLOTS = 700


def problem(rows, lists, heads=6, kv_heads=2, head_dim=16, extra=0, dtype=torch.float32):
    """R requests with rows[r] query rows over slot lists of lists[r] slots; every row sees a little more than the last."""
    requests, total = len(rows), sum(rows)
    cache = torch.randn(SLOTS, 2, kv_heads, head_dim).to(dtype)
    slots = torch.stack([torch.randperm(SLOTS)[: max(lists) + 3] for _ in rows])
    visible = [max(0, lists[r] - rows[r] + 1 + i) for r in range(requests) for i in range(rows[r])]
    args = dict(
        query=torch.randn(total, heads, head_dim).to(dtype),
        key_cache=cache[:, 0],
        value_cache=cache[:, 1],
        slots=slots,
        visible=torch.tensor(visible, dtype=torch.int32),
        cu_q=torch.tensor([0, *rows]).cumsum(0).int(),
        scale=head_dim**-0.5,
    )
    if extra:
        args["extra_key"], args["extra_value"] = torch.randn(2, requests, extra, kv_heads, head_dim).to(dtype)
        args["extra_visible"] = torch.randint(0, extra + 1, (total,), dtype=torch.int32)
    return args


def oracle(query, key_cache, value_cache, slots, visible, cu_q, scale, extra_key=None, extra_value=None, extra_visible=None):
    out = torch.zeros(query.shape, dtype=torch.float64)
    group = query.shape[1] // key_cache.shape[1]
    for request in range(len(slots)):
        for row in range(cu_q[request], cu_q[request + 1]):
            listed = slots[request, : visible[row]]
            key, value = key_cache[listed].double(), value_cache[listed].double()
            if extra_key is not None:
                key = torch.cat((key, extra_key[request, : extra_visible[row]].double()))
                value = torch.cat((value, extra_value[request, : extra_visible[row]].double()))
            if len(key):
                scores = torch.einsum("hd,lhd->hl", query[row].double(), key.repeat_interleave(group, 1)) * scale
                out[row] = torch.einsum("hl,lhd->hd", scores.softmax(-1), value.repeat_interleave(group, 1))
    return out


SHAPES = [
    dict(rows=[1], lists=[1]),
    dict(rows=[1], lists=[200]),
    dict(rows=[6], lists=[64]),
    dict(rows=[1], lists=[0]),
    dict(rows=[1, 1, 1], lists=[5, 64, 130]),
    dict(rows=[2, 0, 5, 1], lists=[7, 9, 65, 0]),
    dict(rows=[40, 1], lists=[40, 3]),
    dict(rows=[3, 1], lists=[20, 2], heads=9, kv_heads=3, head_dim=24),
    dict(rows=[2, 2], lists=[33, 64], heads=4, kv_heads=4, head_dim=64),
    dict(rows=[2, 1], lists=[10, 70], heads=7, kv_heads=1, head_dim=128),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_torch_path_against_float64(shape, extra, dtype, close):
    args = problem(**shape, extra=extra, dtype=dtype)
    close(draft_attention(**args), oracle(**args))


def test_long_prefill_is_attended_in_pieces(close):
    args = problem(rows=[600, 2], lists=[600, 5])
    close(draft_attention(**args), oracle(**args))


@given(rows=st.lists(st.integers(0, 20), min_size=1, max_size=5), data=st.data())
@settings(max_examples=40)
def test_any_batch_against_float64(rows, data, close):
    lists = [data.draw(st.integers(0, 40)) for _ in rows]
    args = problem(rows, lists, extra=data.draw(st.sampled_from([0, 3])))
    if sum(rows):
        args["visible"] = torch.tensor(data.draw(st.lists(st.integers(0, 40), min_size=sum(rows), max_size=sum(rows)))).int()
        args["slots"] = args["slots"].repeat(1, 20)[:, :43]
    close(draft_attention(**args), oracle(**args))


def poisoned(args, lists):
    """Whatever only request 0 can see is NaN, and so is whatever nobody sees: padding slots and unused in-memory rows."""
    limit, start = [], 0
    for end in args["cu_q"][1:].tolist():
        limit.append(int(args["visible"][start:end].max()) if end > start else 0)
        start = end
    args["slots"] = torch.arange(len(lists) * 100).view(len(lists), 100)
    clean = torch.cat([args["slots"][r, :n] for r, n in enumerate(limit) if r > 0])
    dirty = torch.ones(SLOTS, dtype=torch.bool)
    dirty[clean] = False
    cache = torch.stack((args["key_cache"], args["value_cache"]), 1)
    cache[dirty] = torch.nan
    args["key_cache"], args["value_cache"] = cache[:, 0], cache[:, 1]
    for r in range(len(lists)):
        rows = slice(*args["cu_q"][r : r + 2].tolist())
        for name in ("extra_key", "extra_value"):
            args[name] = args[name].clone()
            args[name][r, int(args["extra_visible"][rows].max()) if r else 0 :] = torch.nan
    return args


def check_isolation(attend):
    args = poisoned(problem(rows=[2, 2, 1], lists=[30, 20, 40], extra=4), [30, 20, 40])
    out = attend(args)
    assert out[:2].isnan().all()
    torch.testing.assert_close(out[2:].double(), oracle(**args)[2:], atol=2e-5, rtol=2e-5)


def test_nan_of_one_request_and_of_padding_reaches_no_other():
    check_isolation(lambda args: draft_attention_torch(**args))


def test_request_that_sees_nothing_gives_zeros_beside_nan():
    args = poisoned(problem(rows=[1, 1, 1], lists=[30, 0, 40], extra=4), [30, 0, 40])
    args["extra_visible"][1] = 0
    assert torch.equal(draft_attention(**args)[1], torch.zeros(6, 16))


@pytest.mark.kernel
@pytest.mark.parametrize("num_splits", [1, 3])
@pytest.mark.parametrize("extra", [0, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_agrees_with_torch_path(shape, extra, num_splits, on_device, close):
    args = problem(**shape, extra=extra)
    close(draft_attention_triton(**on_device(args), num_splits=num_splits), draft_attention_torch(**args))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_kernel_in_half_precision(dtype, on_device, close):
    args = problem(rows=[6, 1], lists=[70, 300], heads=4, kv_heads=2, head_dim=64, extra=3, dtype=dtype)
    close(draft_attention_triton(**on_device(args), num_splits=2), draft_attention_torch(**args))


@pytest.mark.kernel
@pytest.mark.parametrize("num_splits", [1, 2])
def test_kernel_isolates_nan(num_splits, on_device):
    check_isolation(lambda args: draft_attention_triton(**on_device(args), num_splits=num_splits).cpu())
