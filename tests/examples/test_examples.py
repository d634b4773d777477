"""Each example runs as it stands, on tiny models."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import vllm_specflash

EXAMPLES = Path(vllm_specflash.__file__).resolve().parent.parent / "examples"
SCENE = EXAMPLES / "data" / "pictures" / "scene-00.png"
BIN = Path(sys.executable).parent


def _run(*command, cwd) -> str:
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    run = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    return run.stdout


def test_offline(image_target, tmp_path):
    printed = _run(
        sys.executable, EXAMPLES / "offline.py", "--model", image_target, "--eager", "--sizing", "longest", "--max-tokens", 24, SCENE, SCENE,
        cwd=tmp_path,
    )  # fmt: skip
    answers = [line for line in printed.splitlines() if line.startswith("scene-00.png: ")]
    assert len(answers) == 2 and answers[0] == answers[1]
    accepted = float(printed.rsplit("Acceptance length: ")[1].split()[0])
    assert accepted > 1.2


def test_serve_client(server, tmp_path):
    printed = _run(
        sys.executable, EXAMPLES / "serve_client.py", "--base-url", f"{server}/v1", "--max-tokens", 24, SCENE, "What?",
        cwd=tmp_path,
    )  # fmt: skip
    assert len(printed.strip()) >= 20


@pytest.fixture
def prompts(tmp_path):
    """Sixteen questions, every other one about a picture."""
    records = [
        {"id": f"q{i}", "prompt": f"what is {i}?", "images": [str(SCENE)] if i % 2 else []} for i in range(16)
    ]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_train_your_draft(image_target, prompts, tmp_path):
    printed = _run(
        EXAMPLES / "train_your_draft.sh", image_target, prompts, tmp_path / "out", "--epochs", 1, "--warmup-steps", 1,
        "--held-out-share", 0.5,
        cwd=tmp_path,
    )  # fmt: skip
    assert "vllm serve" in printed
    assert (tmp_path / "out" / "draft" / "model.safetensors").is_file()

    from vllm.engine.arg_utils import EngineArgs

    options = {"method": "specflash", "model": str(tmp_path / "out" / "draft")}
    config = EngineArgs(str(image_target), speculative_config=options, enforce_eager=True).create_engine_config()
    assert config.speculative_config.specflash.model == options["model"]
