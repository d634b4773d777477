"""On a machine without a GPU: the kernel tests of this folder, under Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent


@pytest.mark.parent
@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run on the GPU instead")
def test_kernels_agree_with_their_torch_paths_under_the_interpreter():
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "kernel", "--import-mode=importlib", "-p", "no:cacheprovider"]
    env = os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    # `python -m` puts the working directory on sys.path, and that must not be the repository root (test_package.py).
    run = subprocess.run(command, env=env, cwd=HERE, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
    print(run.stdout.splitlines()[-1])
