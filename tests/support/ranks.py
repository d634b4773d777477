"""Two ranks that share a target and a draft, on one machine without a GPU."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from drafts import draft_for

from vllm_specflash.draft import SpecFlashDraft

TWO_RANKS = {"tensor_parallel_size": 2, "distributed_executor_backend": "mp"}


def on_one_machine(monkeypatch) -> None:
    """Ranks are processes of one thread each, and end at once."""
    # vLLM binds ranks to a NUMA node each, where there are as many.
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("VLLM_WORKER_SHUTDOWN_TIMEOUT_SECONDS", "0")


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Ranks that wait for each other fail a test; vLLM would wait with them.

    Raises:
        TimeoutError: the block took longer; again every 10 seconds, should one be caught.
    """

    def late(*_):
        raise TimeoutError("the ranks wait for each other")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, 10)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def attending_draft(target: Path, folder: Path) -> Path:
    """Two rounds deep, of a pruned vocabulary that both ranks hold a part of; attention and layers have a say."""
    draft = SpecFlashDraft.from_pretrained(
        draft_for(target, folder, knowing=True, num_rounds=2, draft_vocab_size=78, transition_rank=4, target_layers=[1])
    )
    with torch.no_grad():
        draft.attention.o_proj.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
        draft.fc.weight[:, -draft.config.hidden_size :].normal_(std=0.01, generator=torch.Generator().manual_seed(4))
    draft.save_pretrained(folder)
    return folder
