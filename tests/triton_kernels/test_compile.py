"""Every kernel compiles for the GPUs we name, without one: nothing spills and shared memory suffices."""

import json
import os
import subprocess
import sys

import pytest

# Compiles in a process of its own: this session's Triton may be the interpreter's. One architecture has every case; the two
# others the cases that use the most registers and shared memory of each kernel (the command alone compiles all of all).
HEAVIEST = [
    "head 128, 16 nodes x 7, bf16", "32 nodes x 1", "head 256, 64 nodes x 2", "4 spans, 5 in memory, bf16",
    "63 nodes, 128", "64 latents, D 4096, bf16", "walk of",
]  # fmt: skip
SCRIPT = """
import json, sys, warnings
from dataclasses import asdict
from vllm_specflash.triton_kernels.compile_report import report
warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
arch, cases = int(sys.argv[1]), json.loads(sys.argv[2])
print(json.dumps([asdict(usage) | {"fits": usage.fits} for usage in report([arch], cases)]))
"""
KERNELS = {
    "best_tree_kernel",
    "commit_rows_kernel",
    "count_chances_kernel",
    "draft_attention_kernel",
    "find_copies_kernel",
    "keep_tree_kernel",
    "kv_compact_kernel",
    "merge_chances_kernel",
    "merge_splits_kernel",
    "mix_copies_kernel",
    "pair_chances_kernel",
    "pool_kernel",
    "rope_store_kernel",
    "scores_kernel",
    "slot_queries_kernel",
    "tree_accept_kernel",
    "tree_attention_kernel",
    "tree_rows_kernel",
}


@pytest.mark.parent
@pytest.mark.parametrize("arch, cases", [(80, HEAVIEST), (90, [""]), (100, HEAVIEST)], ids=["sm_80", "sm_90", "sm_100"])
def test_no_kernel_spills_or_outgrows_shared_memory(arch, cases):
    pytest.importorskip("triton")
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(arch), json.dumps(cases)], env=env, capture_output=True, text=True, check=True
    )
    usages = json.loads(run.stdout)
    assert [usage for usage in usages if not usage["fits"]] == []
    compiled = {usage["kernel"] for usage in usages}
    assert compiled == KERNELS if cases == [""] else compiled <= KERNELS


@pytest.mark.parent
def test_benchmark_without_a_gpu_is_refused_in_one_sentence():
    command = [sys.executable, "-m", "vllm_specflash.triton_kernels.bench"]
    run = subprocess.run(command, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True)
    assert run.returncode == 1 and run.stderr.strip().endswith("has both.") and "\n" not in run.stderr.strip()
