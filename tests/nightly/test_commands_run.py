"""Every command of README and pages is run as it stands, on tiny models; what cannot be is named with its reason."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import PAGES, README, commands
from drafts import draft_for
from serving import started
from tiny_models import tiny_llama

BIN = Path(sys.executable).parent
# Not run here, by the first words that say so, and why.
NOT_RUN = {
    "make": "they install and build; .ci/run runs them",
    "pip": "tests/nightly/test_fresh_install.py",
    "docker": "no daemon",
    ". .venv/bin/activate": "of a shell",
    "python -m vllm_specflash.cpu_setup": "tests/plugin/test_packaging.py",
    "python examples/gpu": "tests/examples/test_gpu_kit.py",
    "vllm bench serve": "tests/serving/test_bench_serve.py",
    "curl": "tests/docs/test_commands.py",
    "specflash doctor scenes": "the demo's target; the doctor on tiny ones is run below",
    "specflash identity --method": "of a GPU",
    "vllm serve TARGET --speculative-config specflash --data-parallel-size": "tests/serving/test_data_parallel.py",
    "vllm serve TARGET --speculative-config specflash --tensor-parallel-size": "tests/engine/test_tensor_parallel.py",
    "vllm serve TARGET --speculative-config specflash --max-num-seqs 64": "needs adapters; tests/engine/test_lora.py",
    "specflash convert": "needs the authors' weights; tests/train/test_convert.py",
    "specflash inspect": "of the demo's pictures; tests/inspection",
    "python examples": "tests/examples/test_examples.py",
    "examples/": "tests/examples/test_examples.py",
}
# The demo's targets and minutes, made tiny: what is added to a command that begins so.
SMALLER = {
    "specflash bench": "--target TARGET --task chat --data DATA --repeats 1 --prompts 2 --min-tokens 4 --max-tokens 12 --max-model-len 128 "
    "--dtype float32 --kv-cache-gib 0.05 --enforce-eager --batch-size 1",
    "specflash served": "--target TARGET --task chat --data DATA --repeats 1",
    "specflash identity": "--target TARGET --task chat --data DATA --prompts 3 --max-tokens 12 --enforce-eager --kv-cache-gib 0.05",
    # So short that memory is still that of the first steps: its growth is not judged.
    "specflash soak": "--target TARGET --task chat --data DATA --minutes 0.2 --clients 2 --prompts 4 --max-tokens 12 --max-model-len 256 "
    "--enforce-eager --settle-minutes 1 --kv-cache-mib 64",
    # The default prompts, a token a character; eight answers, of which a twentieth would be none.
    "specflash predict": "--max-tokens 8 --max-model-len 1024 --held-out-share 1 --dtype float32 --kv-cache-gib 0.05 "
    "--enforce-eager",
    "specflash data": "--max-tokens 8 --max-model-len 128 --sampled-share 0",
    "specflash train": "--epochs 1 --warmup-steps 1 --held-out-share 0.5",
    "specflash eval": "--held-out-share 1 --limit 4",
    "vllm serve": "--dtype float32 --enforce-eager --max-model-len 512 --kv-cache-memory-bytes 67108864",
}
REPEATED = ("--target", "--task", "--batch-size")
# Longer than a model of 512 positions is, and what matplotlib would have to be installed for.
UNFIT = re.compile(r"--max-model-len 8192 ?|--plots plots ?")


def _not_run(line: str) -> str | None:
    return next((why for words, why in NOT_RUN.items() if line.startswith(words)), None)


FOUND = list(dict.fromkeys(" ".join(line.split("#")[0].split()) for page in [README, *PAGES] for line in commands(page)))
RUN = [line for line in FOUND if not _not_run(line)]


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A folder with all that the commands name: a target with a draft, a draft, prompts, answers, photos."""
    from engines import noise_image

    folder = tmp_path_factory.mktemp("ground")
    target = tiny_llama(folder / "TARGET")
    draft_for(target, target / "specflash", knowing=True)
    for name in ("DRAFT", "draft"):
        shutil.copytree(target / "specflash", folder / name)
    records = [{"id": f"q{i}", "task": "chat", "prompt": f"what is {i}?"} for i in range(8)]
    (folder / "DATA").mkdir()
    for path in (folder / "PROMPTS.jsonl", folder / "DATA" / "chat.jsonl"):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (folder / "photos").mkdir()
    noise_image(0).save(folder / "photos" / "a.png")
    _run("specflash data --target TARGET --prompts PROMPTS.jsonl --out answers --max-tokens 8 --max-model-len 128 --sampled-share 0", folder)
    return folder


def _run(line: str, folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    run = subprocess.run(shlex.split(line), cwd=folder, env=environment, capture_output=True, text=True, timeout=1800)
    assert run.returncode == 0, f"{line}\n{(run.stdout + run.stderr)[-4000:]}"
    return run


def _smaller(line: str) -> str:
    for words, more in SMALLER.items():
        if line.startswith(words):
            # Of two the last wins, but for options that may be repeated: there the page's stand.
            options = [f"--{option.strip()}" for option in more.split("--")[1:]]
            added = [option for option in options if option.split()[0] not in REPEATED or option.split()[0] not in line.split()]
            return " ".join([UNFIT.sub("", line), *added])
    return line


@pytest.mark.parametrize("line", [line for line in RUN if not line.startswith(("vllm serve", "specflash served"))])
def test_a_command_runs(line, ground, server):
    line = _smaller(line).replace("http://localhost:8000", server)
    if "photos" in line:
        pytest.skip("of pictures: the tiny target here reads text")
    # Files that one command leaves would be continued by the next.
    for left in ("bench.json", "soak.json", "identity.json", "eval.json", "predict.json"):
        (ground / left).unlink(missing_ok=True)
    if line.startswith("specflash train"):
        line = line.replace("--out draft", "--out trained").replace("--features features", "")
    _run(line, ground)


def test_what_clients_see_is_measured(ground):
    (ground / "bench.json").unlink(missing_ok=True)
    _run(_smaller("specflash bench --method specflash --out bench.json"), ground)
    (line,) = [line for line in RUN if line.startswith("specflash served")]
    _run(_smaller(line.replace("--clients 8", "--clients 1")), ground)


@pytest.mark.parametrize("line", [line for line in RUN if line.startswith("vllm serve")])
def test_a_server_starts(line, ground):
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
    with started(shlex.split(_smaller(line)), ground, ground / "server.log", environment):
        pass


def test_most_commands_are_run():
    assert len(RUN) > 20
    # Every reason is of a command that a page has.
    assert all(any(line.startswith(words) for line in FOUND) for words in NOT_RUN)
