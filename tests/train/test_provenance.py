"""A result names the command that made it, so that somebody else can run that."""

import json
import shlex
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import pytest

from vllm_specflash.train.provenance import provenance


@pytest.mark.parametrize(
    "module, begins",
    [
        (None, ["specflash"]),
        ("pytest.__main__", ["specflash"]),
        ("vllm_specflash.lab.demo.sight", ["python", "-m", "vllm_specflash.lab.demo.sight"]),
    ],
)
def test_command_as_it_was_typed(module, begins, monkeypatch):
    main = ModuleType("__main__")
    main.__spec__ = None if module is None else SimpleNamespace(name=module)
    monkeypatch.setitem(sys.modules, "__main__", main)
    given = ["--row", "paper, M = 4", "--steps", "3"]
    monkeypatch.setattr(sys, "argv", ["/some/where", *given])
    assert shlex.split(provenance()["command"]) == begins + given


def test_a_module_that_is_run_names_itself(tmp_path):
    command = ["python", "-m", "vllm_specflash.lab.bench.host_work", "--requests", "2", "--context", "64", "--nodes", "4", "--steps", "1"]
    command += ["--out", str(tmp_path / "found.json")]
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True)
    assert shlex.split(json.loads((tmp_path / "found.json").read_text())["command"]) == command
