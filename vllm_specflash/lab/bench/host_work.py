"""What the host does in a decode step of the engine beside vLLM's own work, and what it sends to the device and back; needs no GPU.

    python -m vllm_specflash.lab.bench.host_work [--requests 64] [--context 4096] [--nodes 16] [--steps 200]

Time is the CPU time of this thread, torch's only one. Triton's launchers run up to the point where the driver would start the kernel; torch's
operators run on the CPU, on a draft too small to count; the draft's forward is left to a CUDA graph, as in serving, and its replay to
the driver. Transfers are counted on torch's meta device, where waiting for a value fails.
"""

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated
from unittest import mock

import torch
import typer

from vllm_specflash.engine.v2 import verifier
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.bench.launches import as_vllm, decode_step
from vllm_specflash.lab.bench.random_draft import default_draft
from vllm_specflash.lab.bench.stand_in import SMALL, DecodeStep
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.triton_kernels import _triton
from vllm_specflash.triton_kernels._compiling import compiling_for

ARCH = 90


@contextmanager
def stubbed_device() -> Iterator[None]:
    """Within it Triton's kernels are compiled and looked up, and not started."""
    # What a kernel would have written must still be something that torch's operators can index with.
    zeros = mock.patch.object(torch, "empty", torch.zeros)
    with compiling_for(ARCH), zeros, mock.patch.object(_triton, "_cpu_backend", lambda: True):
        yield


def milliseconds(requests: int, context: int, nodes: int, steps: int) -> dict[str, dict[str, float]]:
    """CPU time of a step's parts: the median, and the least, which other processes' use of the caches spoils least."""
    taken: dict[str, list[float]] = {"prepare": [], "verify": [], "draft": []}
    # The others would share the operators' work, which is the device's, and the waiting for it.
    torch.set_num_threads(1)
    step = DecodeStep("cpu", default_draft(SMALL), requests, nodes, context)
    step.speculator.graphs = SimpleNamespace(replay=lambda batch: True)
    with stubbed_device(), mock.patch.object(verifier, "get_num_sampled_and_rejected", as_vllm):
        for _ in range(steps + 3):
            for name in taken:
                began = time.thread_time()
                getattr(step, name)()
                taken[name].append(1e3 * (time.thread_time() - began))
    if step.speculator.stats.errors:
        raise RuntimeError("The step failed with the device stubbed.")
    # The first ones compiled.
    return {name: {"median": statistics.median(times[3:]), "least": min(times[3:])} for name, times in taken.items()}


@one_sentence_errors()
def main(
    requests: Annotated[int, typer.Option(help="That decode.")] = 64,
    context: Annotated[int, typer.Option(help="Tokens of each.")] = 4096,
    nodes: Annotated[int, typer.Option(help="Drafted tokens of each.")] = 16,
    steps: Annotated[int, typer.Option(help="Measured.")] = 200,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
) -> None:
    counted = decode_step(requests, context, nodes)
    taken = milliseconds(requests, context, nodes, steps)
    for name, ms in taken.items():
        transfers = counted[name].transfers
        print(f"{name:8} {ms['median']:6.3f} ms (least {ms['least']:.3f}), transfers {transfers['h2d']} / {transfers['d2h']}")
    to, back = (sum(counter.transfers[way] for counter in counted.values()) for way in ("h2d", "d2h"))
    if out is not None:
        write_provenance(
            out, requests=requests, context=context, nodes=nodes, device=device(), milliseconds=taken,
            host_to_device=to, device_to_host=back,
        )  # fmt: skip
    whole, least = (sum(ms[which] for ms in taken.values()) for which in ("median", "least"))
    print(f"{'a step':8} {whole:6.3f} ms (least {least:.3f}), transfers {to} / {back} (host to device / device to host)")


if __name__ == "__main__":
    typer.run(main)
