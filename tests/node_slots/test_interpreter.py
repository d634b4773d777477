"""On a machine without a GPU: the tests of this folder with vLLM's Triton kernels and ours, under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.parent
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU instead")
def test_kernels_of_vllm_and_ours_share_a_step_under_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "--import-mode=importlib", "-p", "no:cacheprovider"]
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # `python -m` puts the working directory on sys.path, and that must not be the repository root.
    run = subprocess.run(command, env=env, cwd=HERE, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    assert " passed" in run.stdout.splitlines()[-1]
    print(run.stdout.splitlines()[-1])
