"""The folder is vllm_specflash.triton_kernels and nothing else."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_specflash.triton_kernels


@pytest.mark.parent
def test_no_top_level_triton_kernels():
    assert importlib.util.find_spec("triton_kernels") is None


@pytest.mark.parent
def test_importing_it_at_top_level_is_refused_in_one_sentence():
    root = Path(vllm_specflash.triton_kernels.__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", "import triton_kernels"], cwd=root, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
    )
    assert run.returncode == 1 and "must not be importable at top level" in run.stderr.splitlines()[-1]


@pytest.mark.parent
def test_commands_in_a_checkout_hide_it_from_vllm():
    """`python -m vllm_specflash.lab.…` would have the root on sys.path."""
    root = Path(vllm_specflash.triton_kernels.__file__).parent.parent
    code = "import importlib.util as u, vllm_specflash.lab; assert u.find_spec('triton_kernels') is None; import vllm_specflash.lab.showcase"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parent
def test_an_installed_package_hides_nothing(tmp_path):
    """Beside a package of that name that is not ours: there the folder above is site-packages."""
    package = Path(vllm_specflash.__file__).parent
    for name in ("vllm_specflash/__init__.py", "vllm_specflash/lab/__init__.py", "triton_kernels/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text((package.parent / name).read_text() if "vllm" in name else "")
    code = f"import vllm_specflash.lab as lab, sys; assert lab.__file__.startswith({str(tmp_path)!r}); import triton_kernels"
    run = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, cwd="/", capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.parent
def test_torch_paths_work_without_triton():
    code = """
import sys
sys.modules["triton"] = None
import torch
from vllm_specflash.triton_kernels.latent_compress import CompressState, latent_compress
from vllm_specflash.triton_kernels import best_tree, commit_rows, draft_attention, kv_compact, tree_accept, tree_attention, tree_rows
state = latent_compress(torch.ones(2, 4), torch.ones(3, 4), torch.tensor([0, 3]), CompressState.empty(1, 2, 4))
assert torch.equal(state.finish(), torch.ones(1, 2, 4))
try:
    tree_attention.tree_attention_kernel[(1,)]()
except ImportError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert "needs Triton" in run.stdout
