"""What runs by `python -m vllm_specflash.lab...` says in one sentence what is wrong with a path."""

import importlib
import json

import pytest
from safetensors.numpy import save_file

from vllm_specflash.lab.checkout import EXAMPLE_DATA
from vllm_specflash.lab.demo.parts import LORA, PROJECTOR, TOWER

NAME_ONE = "name a folder with the tower, projector and LoRA of a demo target."


@pytest.fixture
def ended(tmp_path, monkeypatch, capsys):
    """`ended(module, arguments)`: what the module's main says before it exits with 1, in a folder with an empty folder and a file."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()

    def run(module: str, arguments: str) -> str:
        monkeypatch.setattr("sys.argv", [module, *arguments.split()])
        with pytest.raises(SystemExit) as end:
            importlib.import_module(f"vllm_specflash.lab.demo.{module}").main()
        said = capsys.readouterr()
        assert end.value.code == 1 and said.err.count("\n") == 1 and not said.out
        return said.err.strip()

    return run


@pytest.mark.parametrize("weights, file", [("nowhere", f"nowhere/{TOWER}"), ("empty", f"empty/{PROJECTOR}"), ("file", f"file/{TOWER}")])
def test_weights_that_are_not_there_are_not_evaluated(ended, weights, file):
    assert ended("evaluate", f"--weights {weights} --scenes 1 --clips 0 --sheets 0") == f"There is no file {file}: {NAME_ONE}"


def test_weights_that_are_damaged_are_not_evaluated(ended, tmp_path, monkeypatch):
    monkeypatch.setenv("SPECFLASH_CACHE", str(tmp_path / "cache"))
    save_file({}, tmp_path / "empty" / PROJECTOR)
    (tmp_path / "empty" / LORA).write_text("no tensors")
    said = ended("evaluate", "--weights empty --scenes 1 --clips 0 --sheets 0")
    assert said.startswith(f"empty/{LORA} cannot be read (") and said.endswith(f"): {NAME_ONE}")


@pytest.mark.parametrize("module", ["sight", "gaze"])
def test_weights_that_are_not_there_are_not_looked_into(ended, module):
    assert ended(module, "--weights nowhere --out out") == f"There is no file nowhere/{LORA}: {NAME_ONE}"


@pytest.mark.parametrize("count", ["page", "page=", "page=0", "page=few", "house=3"])
def test_a_count_is_of_a_kind_of_pictures(monkeypatch, capsys, count):
    from vllm_specflash.lab.demo import sight

    monkeypatch.setattr("sys.argv", ["sight", "--out", "out", "--count", count])
    with pytest.raises(SystemExit) as end:
        sight.main()
    assert end.value.code == 2
    assert f"{count!r} is not KIND=N, N pictures of one of page, sheet, scene, clip" in capsys.readouterr().err


def test_a_work_folder_without_all_parts_does_not_ship(ended, tmp_path):
    save_file({}, tmp_path / "empty" / TOWER)
    assert ended("ship", "empty --to shipped") == f"There is no file empty/final/{PROJECTOR}: {NAME_ONE}"
    assert not (tmp_path / "shipped").exists()


@pytest.mark.parametrize("arguments", ["picture_prompts --out file --count 1", "chat_prompts --held-out --out file/prompts.jsonl", "export_examples file"])
def test_files_are_not_written_below_a_file(ended, arguments):
    module, _, rest = arguments.partition(" ")
    said = ended(module, rest)
    assert said.startswith("file") and said.endswith(": name another place.")


def test_references_need_a_target_and_its_own_prompts(ended, text_target):
    prompts, rest = EXAMPLE_DATA / "chat.jsonl", "--out out --count 4"
    assert ended("reference_answers", f"--target nowhere --prompts {prompts} {rest}").startswith("There is no target at 'nowhere' ")
    assert ended("reference_answers", f"--target {text_target} --prompts none.jsonl {rest}").startswith("none.jsonl cannot be used (")
    said = ended("reference_answers", f"--target {text_target} --prompts {prompts} {rest}")
    first = json.loads(prompts.read_text().splitlines()[0])["id"]
    assert said == f"{prompts} was not made with seed 0, of which {first} asks something else: give its own seed with --seed."
