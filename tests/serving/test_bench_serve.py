"""vLLM's own `vllm bench serve` works unchanged."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PICTURES = ["--random-mm-base-items-per-request", "2", "--random-mm-limit-mm-per-prompt", '{"image": 2, "video": 0}']
PICTURES += ["--random-mm-bucket-config", "{(32, 32, 1): 1.0}"]


@pytest.mark.parametrize("dataset, further", [("random-mm", PICTURES)])
def test_bench_serve(server, image_target, tmp_path, dataset, further):
    command = [str(Path(sys.executable).with_name("vllm")), "bench", "serve", "--backend", "openai-chat"]
    command += ["--endpoint", "/v1/chat/completions", "--base-url", server, "--model", "tiny"]
    command += ["--tokenizer", str(image_target), "--dataset-name", dataset, *further]
    command += ["--random-input-len", "40", "--random-output-len", "16", "--num-prompts", "6", "--max-concurrency", "3"]
    command += ["--temperature", "0", "--save-result", "--result-dir", str(tmp_path), "--result-filename", "out.json"]
    run = subprocess.run(command, cwd=tmp_path, env={**os.environ}, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, (run.stdout + run.stderr)[-4000:]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["completed"] == 6 and result.get("failed", 0) == 0
    assert result["total_output_tokens"] == 6 * 16
