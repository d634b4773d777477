"""What a decode step of the V2 engine costs beside vLLM's own, looked at without a GPU."""

import json
import os
import subprocess
import sys

import pytest
import torch

from vllm_specflash.lab.bench.launches import counting, decode_step
from vllm_specflash.tree.calibration import DeviceCalibration


@pytest.fixture(scope="module")
def counted():
    return decode_step(requests=8, context=64, nodes=16)


def test_drafting_takes_at_most_forty_kernels(counted):
    draft = counted["draft"].counts
    assert draft.total() <= 40, draft
    # What must be among them: the counter sees torch's operators and Triton's kernels alike.
    for kernel in (
        "commit_rows_kernel", "find_copies_kernel", "rope_store_kernel", "draft_attention_kernel", "topk", "mix_copies_kernel",
        "best_tree_kernel", "keep_tree_kernel",
    ):  # fmt: skip
        assert draft[kernel] == 1


def test_preparing_takes_two_kernels(counted):
    assert counted["prepare"].counts.total() <= 2


def test_a_decode_step_transfers_nothing(counted):
    assert [dict(part.transfers) for part in counted.values()] == [{}, {}, {}]


@pytest.mark.parametrize("inference", [True, False])
def test_a_transfer_would_be_counted(inference):
    with torch.inference_mode(inference), counting() as counter:
        torch.zeros(3).to("meta").to("meta")
        torch.zeros(3, device="meta").copy_(torch.zeros(3))
        torch.zeros(4, device="meta")[1:3].view(2, 1)
    assert counter.transfers == {"h2d": 2}
    assert "slice" not in counter.counts and "empty" not in counter.counts
    assert counter.counts["to"] + counter.counts["_to_copy"] == 1


def test_waiting_for_a_value_fails(monkeypatch):
    monkeypatch.setattr(DeviceCalibration, "observe", lambda self, chance, *rest: chance.sum().item())
    with pytest.raises(RuntimeError, match="meta"):
        decode_step(requests=2, context=64, nodes=4)


def test_an_error_while_drafting_is_no_low_count(monkeypatch):
    monkeypatch.setattr("vllm_specflash.engine.v2.speculator.keep_tree", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="failed"):
        decode_step(requests=2, context=64, nodes=4)


def test_the_host_measures_itself_and_transfers_nothing(tmp_path):
    """In a process of its own: this one's Triton may be the interpreter's, and it would be left with one thread."""
    out = tmp_path / "host.json"
    command = [sys.executable, "-m", "vllm_specflash.lab.bench.host_work", "--requests", "2", "--context", "64", "--nodes", "4"]
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([*command, "--steps", "3", "--out", str(out)], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = json.loads(out.read_text())
    assert found["host_to_device"] == found["device_to_host"] == 0
    assert set(found["milliseconds"]) == {"prepare", "verify", "draft"}
    assert all(0 < ms["least"] <= ms["median"] for ms in found["milliseconds"].values())
    assert "transfers 0 / 0" in run.stdout.splitlines()[-1]
