"""README's installation by hand into an environment that has nothing, from a wheel and away from the checkout: it serves and trains."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from documents import README, ROOT, commands
from drafts import draft_for
from openai import OpenAI
from serving import counter, started
from tiny_models import tiny_llama

# What the commands below may not get from this process: its engines' settings, and any way to the checkout's modules.
HIDDEN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "VLLM_CPU_KVCACHE_SPACE", "VLLM_ENABLE_V1_MULTIPROCESSING")
SMALL = "--dtype float32 --max-model-len 128 --max-num-seqs 8"
# Commands whose defaults are the demo's, which a wheel has not.
OF_A_CHECKOUT = ("demo", "bench", "identity", "inspect --prompt what?", "predict scenes", "soak", "doctor scenes")


def _by_hand() -> list[str]:
    """README's commands from the installation of torch to the one that sets this package up."""
    found = commands(README)
    (first,) = [at for at, line in enumerate(found) if re.match(r"pip install torch\b", line)]
    (last,) = [at for at, line in enumerate(found) if "vllm_specflash.cpu_setup" in line]
    return found[first : last + 1]


class Fresh:
    """An environment of its own, and an empty folder to work in."""

    def __init__(self, folder: Path):
        self.bin, self.work, self.source = folder / "venv" / "bin", folder / "work", folder / "source"
        self.work.mkdir()
        subprocess.run([sys.executable, "-m", "venv", str(self.bin.parent)], check=True, timeout=300)
        self.environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
        self.environment["PATH"] = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        # As in the Makefile: of most packages nearly every module is never imported.
        self.environment["PIP_NO_COMPILE"] = "1"

    def run(self, line: str, folder: Path | None = None, code: int = 0) -> str:
        """What a command says; fails where it does not end with `code`."""
        words = shlex.split(line, comments=True)
        run = subprocess.run([self.bin / words[0], *words[1:]], cwd=folder or self.work, env=self.environment, capture_output=True, text=True, timeout=1800)
        assert run.returncode == code, f"{line}\n{(run.stdout + run.stderr)[-4000:]}"
        return run.stdout + run.stderr

    def install(self) -> None:
        """By README, the wheel in the checkout's place."""
        # A copy: what an earlier build left beside setup.py would be part of the wheel.
        shutil.copytree(ROOT, self.source, ignore=shutil.ignore_patterns(".venv*", ".git", "build", "*.egg-info", "weights"))
        self.run("pip wheel --no-deps --wheel-dir wheels .", self.source)
        (wheel,) = (self.source / "wheels").glob("*.whl")
        wheel = shutil.move(wheel, self.work.parent)
        for line in _by_hand():
            self.run(re.sub(r"^(pip install --no-deps) \.$", rf"\1 {wheel}", line), self.source)
        shutil.rmtree(self.source)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fresh")
    made = Fresh(folder)
    try:
        made.install()
        target = tiny_llama(made.work / "TARGET")
        draft_for(target, target / "specflash", knowing=True)
        yield made
    finally:
        # Gigabytes, which pytest would keep for its next three runs.
        shutil.rmtree(folder)


def test_readme_installs_the_wheel():
    lines = _by_hand()
    assert [line.split("#")[0].split()[:2] for line in lines] == [["pip", "install"]] * 3 + [["python", "-m"]]
    assert lines[2] == "pip install --no-deps ."


def test_nothing_is_of_the_checkout(fresh):
    said = fresh.run("python -c 'import sys, vllm_specflash, vllm_specflash.triton_kernels as k; print(sys.path, vllm_specflash.__file__, k.__file__)'")
    assert str(ROOT) not in said
    assert said.count(str(fresh.bin.parent / "lib")) >= 3


def test_a_target_is_served(fresh):
    config = json.dumps({"method": "specflash", "model": "TARGET/specflash", "sizing": "longest"})
    line = f"vllm serve TARGET --speculative-config '{config}' {SMALL} --enforce-eager --kv-cache-memory-bytes 67108864"
    words = shlex.split(line)
    with started([str(fresh.bin / words[0]), *words[1:]], fresh.work, fresh.work / "server.log", fresh.environment) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        answer = client.chat.completions.create(model="TARGET", messages=[{"role": "user", "content": "who?"}], temperature=0, max_tokens=32)
        assert answer.usage.completion_tokens == 32
        assert counter(address, "vllm:spec_decode_num_accepted_tokens") > 8


def test_a_draft_is_trained(fresh):
    prompts = [{"id": f"q{i}", "task": "chat", "prompt": f"what is {i}?"} for i in range(8)]
    (fresh.work / "PROMPTS.jsonl").write_text("".join(json.dumps(prompt) + "\n" for prompt in prompts))
    fresh.run("specflash data --target TARGET --prompts PROMPTS.jsonl --out answers --max-tokens 16 --max-model-len 128 --sampled-share 0")
    fresh.run("specflash train --target TARGET --data answers --out draft --epochs 1 --warmup-steps 1 --held-out-share 0.5")
    written = json.loads((fresh.work / "draft" / "config.json").read_text())
    assert written["model_type"] == "specflash" and written["target_name"] == "TARGET"
    assert (fresh.work / "draft" / "model.safetensors").stat().st_size > 10**5


@pytest.mark.parametrize("command", OF_A_CHECKOUT)
def test_what_only_a_checkout_has_is_said_in_one_sentence(command, fresh):
    said = fresh.run(f"specflash {command}", code=1)
    assert "Traceback" not in said
    sentence = "the demo's weights and prompts are part of a checkout, not of a wheel; run `pip install --editable .` in one."
    # The console breaks the sentence where its line ends.
    assert "".join(sentence.split()) in "".join(said.split())
