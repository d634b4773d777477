"""Every command on a page is one that its program understands; cheap ones are run."""

import importlib.util
import shlex
import subprocess
import sys
import urllib.request
from importlib import metadata

import pytest
import typer
from documents import PAGES, README, ROOT, blocks, commands
from drafts import draft_for
from typer.testing import CliRunner

from vllm_specflash.cli import app

FOUND = [(page, " ".join(line.split())) for page in [*PAGES, README] for line in commands(page)]

IDS = [f"{page.stem}: {line.split('#')[0].strip()}" for page, line in FOUND]


def _understood_by_specflash(words: list[str]) -> None:
    command = typer.main.get_command(app).get_command(None, words[0])
    assert command is not None, f"there is no command {words[0]}"
    if words[1:] != ["--help"]:
        command.make_context(words[0], words[1:])


@pytest.fixture
def vllm_parser(monkeypatch):
    """vLLM's own, with the plugin's words in it."""
    import vllm.entrypoints.cli.benchmark.main as bench
    import vllm.entrypoints.cli.benchmark.serve  # noqa: F401, it registers itself
    from vllm.entrypoints.cli import serve
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    # `vllm bench` adds its commands only where it sees that it was called.
    monkeypatch.setattr(sys, "argv", ["vllm", "bench"])
    parser = FlexibleArgumentParser()
    programs = parser.add_subparsers(dest="subparser")
    for module in (serve, bench):
        for program in module.cmd_init():
            program.subparser_init(programs)
    return parser


def _installable(words: list[str]) -> None:
    assert words[0] == "install"
    extras = metadata.metadata("vllm-specflash").get_all("Provides-Extra")
    for word, before in zip(words[1:], words):
        if before == "-r":
            assert (ROOT / word).is_file()
        elif word.startswith(".["):
            assert word[2:-1] in extras
        elif not word.startswith("-") and word != ".":
            # The version that `make setup` installs.
            assert f" {word}\n" in (ROOT / "Makefile").read_text()


def _runnable(words: list[str]) -> None:
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]), words[1]
        return
    source = (ROOT / words[0]).read_text()
    assert all(word in source for word in words[1:] if word.startswith("--"))


@pytest.mark.parametrize("page, line", FOUND, ids=IDS)
def test_command_is_understood(page, line, request):
    program, *words = shlex.split(line, comments=True)
    if program == "specflash":
        _understood_by_specflash(words)
    elif program == "vllm":
        request.getfixturevalue("vllm_parser").parse_args(words)
    elif program == "pip":
        _installable(words)
    elif program == "python":
        _runnable(words)
    elif program == "docker":
        # Where it is installed: tests/examples/test_deploy.py looks into the files.
        assert (ROOT / words[words.index("--file") + 1]).is_file()
    elif program == "make":
        dry = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True)
        assert dry.returncode == 0, dry.stderr
    elif program == "curl":
        server = request.getfixturevalue("server")
        address = words[-1].replace("http://localhost:8000", server)
        with urllib.request.urlopen(address, timeout=30) as answer:
            assert answer.status == 200
    elif program.startswith("examples/"):
        assert subprocess.run(["bash", "-n", ROOT / program]).returncode == 0
    else:
        assert (program, words) == (".", [".venv/bin/activate"]), f"no test knows the program {program}"


def test_pages_have_commands():
    """The net above is not empty."""
    assert len(FOUND) > 30
    programs = {shlex.split(line, comments=True)[0] for _, line in FOUND}
    assert programs >= {"specflash", "vllm", "pip", "make", "python", "curl"}


def test_doctor_without_a_target_runs():
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    assert "Ready." in result.output


def test_an_option_that_does_not_exist_is_not_understood(vllm_parser):
    with pytest.raises(Exception, match="[Nn]o such option"):
        _understood_by_specflash(["bench", "--no-such-option"])
    with pytest.raises(SystemExit):
        vllm_parser.parse_args(["serve", "TARGET", "--no-such-option"])


PYTHON = [(page, code) for page in PAGES for code in blocks(page, "python")]


@pytest.mark.parametrize("page, code", PYTHON, ids=[page.stem for page, _ in PYTHON])
def test_python_runs(page, code, request, tmp_path, monkeypatch, capsys):
    from engines import noise_image

    noise_image(0).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    if "openai" in code:
        code = code.replace("http://localhost:8000", request.getfixturevalue("server"))
    else:
        code = _small(code, request.getfixturevalue("text_target"), tmp_path, monkeypatch)
    names: dict = {}
    exec(compile(code, str(page), "exec"), names)
    assert len(capsys.readouterr().out) > 20
    if "llm" in names:
        names["llm"].llm_engine.engine_core.shutdown()


def _small(code: str, target, folder, monkeypatch) -> str:
    """The page's code with tiny models, and engines as small as other tests'."""
    import vllm
    from engines import SMALL

    original = vllm.LLM
    monkeypatch.setattr(vllm, "LLM", lambda *args, **kwargs: original(*args, **{**SMALL, **kwargs}))
    draft = draft_for(target, folder / "draft", knowing=True)
    return code.replace("TARGET", str(target)).replace("DRAFT", str(draft))
