"""The plugin keeps out of the way: unused it changes nothing, and on a vLLM it does not know vLLM still works."""

import importlib.util
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_specflash
from vllm_specflash import compat, plugin

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent

# Plain vLLM in a process of its own; argv: the target, and the vLLM version to pretend (or "").
PLAIN = """
import importlib.util, json, sys
target, version = sys.argv[1:]
if version:
    from vllm_specflash import compat
    compat.vllm_version = lambda: version
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import EngineArgs
llm = LLM(target, dtype="float32", enforce_eager=True, max_model_len=256, kv_cache_memory_bytes=1 << 24)
outputs = llm.generate(["hello there", "0123"], SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
config = llm.llm_engine.vllm_config
from vllm.utils.import_utils import has_triton_kernels
print("RESULT", json.dumps({
    "tokens": [list(output.outputs[0].token_ids) for output in outputs],
    "worker": config.parallel_config.worker_cls,
    "speculative_config": config.speculative_config,
    "compute_hash": config.compute_hash(),
    "wrapped": hasattr(EngineArgs, "_specflash_wrapped"),
    "imported": sorted(name for name in sys.modules if name.startswith("vllm_specflash.")),
    "has_triton_kernels": has_triton_kernels(),
}))
"""


def _run(target, version="", cwd=None, **environment):
    run = subprocess.run(
        [sys.executable, "-c", PLAIN, str(target), version],
        cwd=cwd or target, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    (result,) = [line.removeprefix("RESULT ") for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(result), run.stdout + run.stderr


@pytest.fixture(scope="module")
def without_plugin(text_target):
    result, _ = _run(text_target, VLLM_PLUGINS="")
    assert not result["wrapped"]
    return result


def test_unused_it_changes_nothing(text_target, without_plugin):
    # In the repository root, whose triton_kernels/ vLLM must not take for OpenAI's.
    result, _ = _run(text_target, cwd=ROOT)
    assert result["wrapped"]
    assert {name.split(".")[1] for name in result["imported"]} <= {"compat", "config", "plugin", "torchvision_ops"}
    for key in ("tokens", "worker", "speculative_config", "compute_hash", "has_triton_kernels"):
        assert result[key] == without_plugin[key], key


def test_unknown_vllm_keeps_working_and_says_so_once(text_target, without_plugin):
    result, output = _run(text_target, version="0.99.1")
    assert not result["wrapped"]
    assert result["tokens"] == without_plugin["tokens"]
    errors = [line for line in output.splitlines() if "SpecFLASH" in line]
    assert len(errors) == 1
    assert "SpecFLASH does not know vLLM 0.99.1 (it supports 0.26 to 0.33)" in errors[0]


@pytest.mark.parametrize("version", ["0.26.0", "0.30.1", "0.32.0", "0.32.0+cpu", "0.33.0rc1", "0.33.9.post2"])
def test_supported_versions(version):
    assert compat.problem((), version) is None


@pytest.mark.parametrize("version", ["0.25.1", "0.34.0", "1.0.0", "0.9.2", "dev", ""])
def test_versions_outside_the_range(version):
    sentence = compat.problem((), version or "0.1")
    assert "stays inactive: install a vLLM of that range" in sentence and sentence.endswith(".")


def test_no_vllm(monkeypatch):
    monkeypatch.setattr(compat, "vllm_version", lambda: None)
    assert compat.problem(()).startswith("SpecFLASH found no vLLM here: install both in one environment")


@pytest.mark.parametrize(
    "name, says",
    [
        (compat.Name("vllm.engine.arg_utils", "EngineArgs.create_nothing"), "has no vllm.engine.arg_utils.EngineArgs.create_nothing"),
        (compat.Name("vllm.no_such_module", "X"), "has no vllm.no_such_module.X"),
        (
            compat.Name("vllm.engine.arg_utils", "EngineArgs.add_cli_args", ("parser", "colour")),
            "has no parameter colour in vllm.engine.arg_utils.EngineArgs.add_cli_args",
        ),
    ],
    ids=["method", "module", "parameter"],
)  # fmt: skip
def test_missing_name_is_named(name, says):
    assert f"stays inactive because vLLM 0.32.0 {says}" in compat.problem((name,), "0.32.0")


@pytest.fixture
def errors(caplog, monkeypatch):
    """Messages logged by register(), whatever vLLM made of its loggers."""
    monkeypatch.setattr(plugin.logger, "propagate", True)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.name == "vllm.specflash"]


def test_a_check_that_fails_is_an_error_in_the_log(monkeypatch, errors):
    def broken():
        raise RuntimeError("no such thing")

    monkeypatch.setattr(compat, "problem", broken)
    plugin.register()
    assert errors() == ["SpecFLASH stays inactive because its check of this vLLM failed: RuntimeError('no such thing')."]


def test_registering_twice_wraps_once():
    from vllm.engine.arg_utils import EngineArgs

    plugin.register()
    wrapped = EngineArgs.create_engine_config
    plugin.register()
    assert EngineArgs.create_engine_config is wrapped


def test_this_vllm_has_every_name():
    assert compat.problem(compat.CONFIG_NAMES + compat.ENGINE_NAMES + compat.CPU_NAMES) is None


@pytest.fixture
def repository_root_on_path(monkeypatch):
    monkeypatch.delitem(sys.modules, "triton_kernels", raising=False)
    monkeypatch.syspath_prepend(ROOT)
    yield
    sys.modules.pop("triton_kernels", None)


def test_own_kernels_are_hidden_from_probes(repository_root_on_path):
    assert importlib.util.find_spec("triton_kernels") is not None
    plugin._hide_own_kernels_from_probes()
    assert importlib.util.find_spec("triton_kernels") is None


def test_the_real_triton_kernels_is_not_hidden(repository_root_on_path, tmp_path, monkeypatch):
    (tmp_path / "triton_kernels").mkdir()
    (tmp_path / "triton_kernels" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    plugin._hide_own_kernels_from_probes()
    assert Path(importlib.util.find_spec("triton_kernels").origin).parent == tmp_path / "triton_kernels"
