"""Several processes train one draft, as several GPUs would: here two on the CPU."""

import json
import os
import subprocess
import sys

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.answers import AnswerFolder


def test_two_processes_share_the_batches_and_fill_one_feature_cache(tmp_path, llama, llama_answers):
    AnswerFolder(tmp_path / "answers").append(llama_answers)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "vllm_specflash.cli", "train", "--target", llama.path, "--data", tmp_path / "answers", "--out", tmp_path / "draft",
        "--features", tmp_path / "features", "--epochs", "2", "--batch-size", "2", "--held-out-share", "0.2",
        "--semi-ar-width", "3", "--num-latents", "4", "--head-expansion", "1", "--draft-vocab-size", "40",
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-3000:]
    facts = json.loads((tmp_path / "draft" / "provenance.json").read_text())
    # 4 answers in batches of 2 are two steps an epoch for one process, and one for two.
    assert facts["answers"] == 4 and facts["steps"] == 2
    assert SpecFlashDraft.from_pretrained(tmp_path / "draft").config.semi_ar_width == 3
    ids = [json.loads(line)["id"] for line in (tmp_path / "features" / "index.jsonl").read_text().splitlines()]
    assert sorted(ids) == sorted(answer.prompt.id for answer in llama_answers)
