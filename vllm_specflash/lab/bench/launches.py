"""How many kernels one decode step of the engine launches beside vLLM's, before CUDA graphs; needs no GPU.

    python -m vllm_specflash.lab.bench.launches [--requests 64] [--context 4096] [--nodes 16] [--every]

The engine's own code runs on torch's meta device, which holds no values, so that waiting for one fails. Every torch operator that is
neither a view nor an allocation counts as one kernel (a few, `topk` among them, are several inside), every launch of a Triton
kernel as one. The draft's part is what a CUDA graph replays at once, preparation of its inputs aside.
"""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated
from unittest import mock

import torch
import typer
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_specflash.engine.v2 import verifier
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.bench.random_draft import default_draft
from vllm_specflash.lab.bench.stand_in import SMALL, DecodeStep
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.triton_kernels import _triton

# They make a tensor and write nothing into it.
ALLOCATIONS = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "lift_fresh", "resize_"}


class KernelCounter(TorchDispatchMode):
    """
    Attributes:
        counts: launches by operator or kernel.
        transfers: copies between host and device by direction, "h2d" and "d2h".
    """

    def __init__(self):
        super().__init__()
        self.counts, self.transfers = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        # In inference mode `to`, `reshape` and their like arrive whole: views by their schema, copies where they must.
        view = func.is_view and torch._C._is_alias_of(args[0], result if isinstance(result, torch.Tensor) else result[0])
        if not view and name not in ALLOCATIONS and func.namespace in ("aten", "specflash"):
            self.counts[name] += 1
            direction = _direction(name, args, result)
            if direction:
                self.transfers[direction] += 1
        return result


def _direction(name: str, args: tuple, result) -> str | None:
    """Where a copy goes, if it leaves its device."""
    if name == "copy_":
        source, target = args[1], args[0]
    elif name in ("_to_copy", "to"):
        source, target = args[0], result
    else:
        return None
    if source.device.type == target.device.type:
        return None
    return "h2d" if source.device.type == "cpu" else "d2h"


@contextmanager
def counting() -> Iterator[KernelCounter]:
    """Count what is launched inside, torch's kernels and Triton's."""
    with ExitStack() as stack:
        counter = stack.enter_context(KernelCounter())

        def launch(kernel, grid, *arguments, **constants):
            if 0 not in grid:
                counter.counts[kernel.__name__] += 1

        original = _triton.launch
        ours = [module for name, module in sys.modules.items() if name.startswith(_triton.__package__ + ".")]
        for module in ours:
            if getattr(module, "launch", None) is original:
                stack.enter_context(mock.patch.object(module, "launch", launch))
        yield counter


def decode_step(requests: int, context: int, nodes: int) -> dict[str, KernelCounter]:
    """What the parts of a step launch on a GPU: "prepare", "verify" and "draft"."""
    counters = {}
    with mock.patch.object(verifier, "get_num_sampled_and_rejected", as_vllm):
        step = DecodeStep("meta", default_draft(SMALL), requests, nodes, context)
        parts: dict[str, Callable[[], None]] = {"prepare": step.prepare, "verify": step.verify, "draft": step.draft}
        for name, part in parts.items():
            with counting() as counter:
                part()
            counters[name] = counter
        if step.speculator.stats.errors:
            raise RuntimeError("The step failed on a fake device.")
    return counters


def as_vllm(num_sampled: torch.Tensor, *_) -> tuple[torch.Tensor, torch.Tensor]:
    """vLLM's own launch, which plain speculation has too."""
    return num_sampled, num_sampled


@one_sentence_errors()
def main(
    requests: Annotated[int, typer.Option(help="That decode.")] = 64,
    context: Annotated[int, typer.Option(help="Tokens of each.")] = 4096,
    nodes: Annotated[int, typer.Option(help="Drafted tokens of each.")] = 16,
    every: Annotated[bool, typer.Option("--every", help="Name every operator and kernel.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the counts to this json file.")] = None,
) -> None:
    counters = decode_step(requests, context, nodes)
    if out is not None:
        kernels = {name: dict(counter.counts) for name, counter in counters.items()}
        write_provenance(out, requests=requests, context=context, nodes=nodes, kernels=kernels)
    for name, counter in counters.items():
        print(f"{name:8} {counter.counts.total():3} kernels, {counter.transfers['h2d']} / {counter.transfers['d2h']} transfers")
        if every:
            for kernel, count in counter.counts.most_common():
                print(f"         {count:3} {kernel}")


if __name__ == "__main__":
    typer.run(main)
