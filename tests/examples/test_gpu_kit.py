"""What a GPU machine without network lacks, packed in rounds and put together again; what runs there, and what it leaves."""

import importlib.util
import json
import os
import zipfile
from pathlib import Path

import pytest
import typer

import vllm_specflash
from vllm_specflash.cli import app
from vllm_specflash.lab.bench.method import chances, parse_method, synthetic_methods

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent


def _module(name: str):
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", ROOT / "examples" / "gpu" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def pack():
    return _module("pack")


@pytest.fixture
def run():
    return _module("run")


def wheel(folder: Path, name: str, version: str, requires: list[str] = [], files: dict[str, bytes] = {}) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    header = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {text}" for text in requires)]
    with zipfile.ZipFile(path, "w") as content:
        content.writestr(f"{name}-{version}.dist-info/METADATA", "\n".join(header) + "\n\nRequires-Dist: prose\n")
        for member, data in files.items():
            content.writestr(member, data)
    return path


@pytest.fixture
def wheels(tmp_path) -> Path:
    """vllm needs a -> c (twice, at its level and below), torch (there), tilelang (left behind), and others elsewhere."""
    folder = tmp_path / "wheels"
    noise = os.urandom(300_000)
    wheel(
        folder, "vllm", "0.26.0",
        ["a>=2", "c", "Torch==2.11.0", "tilelang", 'b; python_version < "3"', 'd; extra == "bench"', "e[more]; sys_platform == 'linux'"],
        {
            "vllm/__init__.py": b"here = 1", "vllm/_C_stable_libtorch.abi3.so": noise * 5, "vllm/other.abi3.so": noise * 5,
            "vllm/third_party/include/x.h": b"no", "vllm/config.json": b"{}",
        },
    )  # fmt: skip
    wheel(folder, "a", "1.0")
    wheel(folder, "a", "2.1", ["c<2", "numpy"], {"a.py": b"value = 2", "a-2.1.data/purelib/extra.py": b"", "a-2.1.data/scripts/a": b""})
    wheel(folder, "c", "1.5", [], {"c/__init__.py": b""})
    wheel(folder, "e", "1", ["vllm"])
    return folder


def test_all_that_is_needed_and_not_there_is_gathered(pack, wheels):
    found = pack.gather([pack.VLLM], {"torch", "numpy"}, wheels)
    assert [path.name.split("-py3")[0] for path in found] == ["a-2.1", "c-1.5", "e-1", "vllm-0.26.0"]


def test_what_is_missing_is_asked_of_pip(pack, wheels, monkeypatch):
    asked = []
    monkeypatch.setattr(pack.subprocess, "run", lambda command, check: asked.append(command) or wheel(wheels, "numpy", "2.5"))
    found = pack.gather([pack.VLLM], {"torch"}, wheels)
    assert asked[0][1:4] == ["-m", "pip", "download"] and asked[0][-1] == "numpy" and "--no-deps" in asked[0]
    assert len(asked) == 1 and "numpy-2.5-py3-none-any.whl" in [path.name for path in found]


@pytest.fixture
def rounds(pack, wheels, tmp_path) -> list[Path]:
    archive = tmp_path / "kit.tar.xz"
    pack.pack(pack.gather([pack.VLLM], {"torch", "numpy"}, wheels), archive)
    pieces = pack.cut(archive, tmp_path / "out", 128 * 1024)
    assert len(pieces) > 2 and all(piece.stat().st_size <= 128 * 1024 for piece in pieces)
    return pieces


def test_rounds_in_any_order_make_the_kit(run, rounds, tmp_path):
    kit = tmp_path / "kit"
    for count, piece in enumerate(reversed(rounds), 1):
        said = run.receive([piece], kit)
        assert ("still to come" in said) == (count < len(rounds))
    site = kit / "site"
    assert (site / "vllm" / "__init__.py").read_bytes() == b"here = 1"
    assert (site / "vllm" / "_C_stable_libtorch.abi3.so").stat().st_size == 1_500_000
    assert (site / "vllm" / "config.json").is_file() and (site / "extra.py").is_file() and (site / "c").is_dir()
    assert (site / "a-2.1.dist-info" / "METADATA").is_file()
    for left in ("vllm/other.abi3.so", "vllm/third_party/include/x.h", "a-2.1.data"):
        assert not (site / left).exists()


def test_a_piece_that_was_damaged_is_noticed(run, rounds, tmp_path):
    rounds[1].write_bytes(rounds[1].read_bytes()[:-1] + b"?")
    with pytest.raises(ValueError, match="do not add up"):
        run.receive(rounds, tmp_path / "kit")


def test_pieces_of_two_packings_are_noticed(run, rounds, tmp_path):
    other = rounds[0].with_name("kit-0123456789abcdef-02-of-03")
    other.write_bytes(b"x")
    with pytest.raises(ValueError, match="different packings"):
        run.receive([rounds[0], other], tmp_path / "kit")


def test_results_tell_what_ran_and_on_what(run, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "KIT", tmp_path / "kit")
    monkeypatch.setattr(run, "install", lambda site: None)

    def steps(out):
        write = f"import json, os; json.dump(os.environ['ANSWER'], open({str(out / 'bench.json')!r}, 'w'))"
        yield run.Step("bench", ["-c", write], out, 60, {"ANSWER": "42"})
        yield run.Step("engine", ["-c", "raise SystemExit('it broke')"], out, 60, {})
        yield run.Step("kernels", ["-c", "import time; print('begun', flush=True); time.sleep(60)"], out, 2, {})

    monkeypatch.setattr(run, "steps", steps)
    assert run.run(tmp_path / "out", []) == 1
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [(one["name"], one["returncode"]) for one in record["steps"]] == [("bench", 0), ("engine", 1), ("kernels", None)]
    assert "it broke" in record["steps"][1]["tail"] and "begun" in record["steps"][2]["tail"]
    assert record["bench"] == "42"
    assert {"python", "cuda", "torch", "triton", "vllm", "transformers"} <= set(record["device"])
    assert run.run(tmp_path / "out", ["bench"]) == 0
    record = json.loads((tmp_path / "out" / "gpu.json").read_text())
    assert [one["name"] for one in record["steps"]] == ["bench", "engine", "kernels"]


def test_steps_are_commands_that_exist(run, tmp_path):
    found = {step.name: step for step in run.steps(tmp_path)}
    assert list(found) == ["kernels", "launches", "host_work", "engine", "identity", "bench", "peers", "synthetic"]
    assert set(run.RESULTS) == set(found) - {"engine"}
    for step in found.values():
        assert importlib.util.find_spec(step.command[1]) and step.folder != ROOT
        for word in step.command[2:]:
            assert not word.startswith(str(ROOT)) or Path(word).exists(), word
    for name in ("identity", "bench", "peers", "synthetic"):
        words = found[name].command[2:]
        typer.main.get_command(app).get_command(None, words[0]).make_context(words[0], words[1:])


def test_engines_of_ours_are_asynchronous_and_never_wait(run, tmp_path):
    found = {step.name: step for step in run.steps(tmp_path)}
    for name in ("engine", "identity", "bench", "synthetic"):
        assert found[name].environment["VLLM_GPU_SYNC_CHECK"] == "error"
    for name in ("identity", "bench", "synthetic"):
        command = found[name].command
        arguments = json.loads(command[command.index("--engine-args") + 1])
        assert arguments["async_scheduling"] is True and not arguments.get("enforce_eager")


def test_trees_chains_and_vllms_own_methods_are_compared(run, tmp_path, monkeypatch):
    def methods(name):
        command = next(step.command for step in run.steps(tmp_path) if step.name == name)
        return [parse_method(word).name for before, word in zip(command, command[1:]) if before == "--method"]

    assert methods("bench") == ["specflash", "chains"]
    assert methods("peers") == ["ngram", "specflash"]
    monkeypatch.setattr(run, "EAGLE3", str(tmp_path))
    assert methods("peers") == ["ngram", "eagle3", "specflash"]
    synthetic = next(step.command for step in run.steps(tmp_path) if step.name == "synthetic")
    rates = chances(synthetic[synthetic.index("--synthetic-acceptance") + 1])
    assert [method.name for method in synthetic_methods(rates, "d")] == ["synthetic trees", "synthetic chains"]


def test_the_machines_packages_are_names(pack):
    names = pack.present(pack.PRESENT)
    assert {"torch", "triton", "transformers", "numpy"} <= names and "vllm" not in names and "pydantic" not in names
