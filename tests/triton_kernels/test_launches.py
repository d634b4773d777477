"""What serving launches: as many programs as have work, and no kernel that a request would wait for to be compiled."""

import json
import os
import subprocess
import sys

import pytest
import torch

from vllm_specflash.triton_kernels import _samples as samples
from vllm_specflash.triton_kernels import _softmax, draft_attention, tree_attention
from vllm_specflash.triton_kernels._tiles import launched_tiles

# Streaming multiprocessors of an H100.
MULTIPROCESSORS = 132


@pytest.fixture
def grids(monkeypatch):
    """Grids of the attention kernels launched so far, on a GPU of that size which does nothing."""
    seen = []
    monkeypatch.setattr(_softmax, "_multiprocessors", lambda device: MULTIPROCESSORS)
    for module in (draft_attention, tree_attention):
        monkeypatch.setattr(module, "launch", lambda kernel, grid, *arguments, **constants: seen.append(grid))
    return seen


def programs(grids):
    return [torch.Size(grid).numel() for grid in grids]


@pytest.mark.parametrize("requests, launched", [(1, 4 * 66), (64, 256 * 2), (256, 1024)])
def test_draft_attention_launches_a_program_per_request_kv_head_and_split(requests, launched, grids, faked):
    args = samples.draft_attention_inputs(samples.QWEN, requests, 16384, 2, 5, torch.bfloat16, "meta")
    with faked(args, "cuda") as fake:
        draft_attention.draft_attention_triton(**fake)
    assert programs(grids) == [launched]


def tree_programs(heads, sizes, bound, faked, grids):
    """Programs launched for trees of those sizes, where no tree has more than `bound` nodes."""
    args = samples.tree_attention_inputs(heads, len(sizes), max(sizes), 4096, 16, torch.bfloat16, "meta")
    rows = sum(sizes)
    args |= dict(query=args["query"][:rows], ancestors=args["ancestors"][:rows], max_num_nodes=bound)
    with faked(args, "cuda") as fake:
        tree_attention.tree_attention_triton(**fake, num_splits=1)
    return programs(grids)[-1]


def test_tree_attention_does_not_launch_for_nodes_that_no_request_has(faked, grids):
    """64 single rows of 4 KV heads are 256 programs of work; 64 nodes each would be 1,792."""
    assert tree_programs(samples.QWEN, [1] * 64, 64, faked, grids) <= 4 * (64 + 7)
    assert tree_programs(samples.QWEN, [16] * 64, 16, faked, grids) == 4 * 64 * 2
    assert tree_programs(samples.QWEN, [16] * 64, 64, faked, grids) <= 4 * (64 * 2 + 48)


@pytest.mark.parametrize("sizes", [[1] * 9, [64, 1, 1], [3, 0, 20, 0, 1], [16] * 4])
def test_every_tree_gets_its_tiles_however_the_nodes_are_divided(sizes):
    """As the kernel lays them out: request r's begin at its first row's tile, r further on."""
    for group in (3, 7):
        tiles, each = launched_tiles(sum(sizes), len(sizes), 64, group, 64)
        assert each == 0
        begins = [sum(sizes[:r]) * group // 64 + r for r in range(len(sizes))]
        for begin, end, nodes in zip(begins, [*begins[1:], tiles], sizes):
            assert end - begin >= -(-nodes * group // 64)


# Served as the engine does: caches and tables of one engine, batches of every size, one step after the other.
SERVED = """
import json, warnings
import torch
from vllm_specflash.triton_kernels import _copy_samples as copy_samples, _samples as samples
from vllm_specflash.triton_kernels.best_tree import best_tree_triton
from vllm_specflash.triton_kernels.commit_rows import commit_rows_triton
from vllm_specflash.triton_kernels._compiling import counting_variants
from vllm_specflash.triton_kernels.draft_attention import draft_attention_triton
from vllm_specflash.triton_kernels.find_copies import find_copies_triton
from vllm_specflash.triton_kernels.kv_compact import kv_compact_triton
from vllm_specflash.triton_kernels.latent_compress import latent_compress_triton
from vllm_specflash.triton_kernels.mix_copies import mix_copies_triton
from vllm_specflash.triton_kernels.observe_chances import observe_chances_triton
from vllm_specflash.triton_kernels.tree_accept import tree_accept_triton
from vllm_specflash.triton_kernels.tree_attention import tree_attention_triton
from vllm_specflash.triton_kernels.tree_rows import tree_rows_triton
half, heads, nodes = torch.bfloat16, samples.SMOL, 8
with counting_variants(90) as variants:
    for requests in (1, 2, 3, 4, 7, 8, 15, 16, 17, 32, 33, 64):
        for splits in (1, 2, 3, 16):
            for visible, extra in ((16, 0), (33, 1), (100, 5), (512, 16)):
                args = samples.draft_attention_inputs(heads, requests, visible, 2, extra, half, "cpu")
                draft_attention_triton(**args, num_splits=splits)
            for context in (1, 16, 100):
                args = samples.tree_attention_inputs(heads, requests, nodes, context, 16, half, "cpu")
                for rows in (1, requests * nodes):
                    some = {name: args[name][:rows] for name in ("query", "ancestors")}
                    tree_attention_triton(**(args | some), num_splits=splits)
        best_tree_triton(**samples.best_tree_inputs(requests, 7, 32, nodes - 1, "cpu"))
        tree_accept_triton(**samples.tree_accept_inputs(requests, nodes, "cpu"))
        tree_rows_triton(**samples.tree_rows_inputs(requests, nodes, "cpu"))
        observe_chances_triton(**samples.observe_chances_inputs(requests, nodes, "cpu"))
        find_copies_triton(**copy_samples.find_copies_inputs(requests, 100 + requests, 16, "cpu"))
        mix_copies_triton(**copy_samples.mix_copies_inputs(requests, 5, 32, 16, "cpu"))
        for verified in (True, False):
            commit_rows_triton(**samples.commit_rows_inputs(requests, nodes, verified, "cpu"))
        kv_compact_triton(**samples.kv_compact_inputs(heads, 2, requests, nodes - 1, 16, half, "cpu"))
        for length in (1, 16, 50):
            latent_compress_triton(**samples.latent_compress_inputs(16, 576, requests, length, half, "cpu"))
print(json.dumps({name: len(keys) for name, keys in variants.items()}))
"""


@pytest.mark.parent
def test_serving_meets_few_variants_of_each_kernel():
    pytest.importorskip("triton")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", SERVED], env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "draft_attention_kernel": 4,
        "tree_attention_kernel": 2,
        "merge_splits_kernel": 1,
        "best_tree_kernel": 1,
        "tree_accept_kernel": 1,
        "tree_rows_kernel": 1,
        "count_chances_kernel": 1,
        "merge_chances_kernel": 1,
        "commit_rows_kernel": 2,
        "find_copies_kernel": 1,
        "mix_copies_kernel": 1,
        "kv_compact_kernel": 1,
        "scores_kernel": 1,
        "pool_kernel": 1,
    }
