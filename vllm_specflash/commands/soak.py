"""specflash soak: a server under load, then what it still holds and whether its answers are plain vLLM's."""

import time
from dataclasses import asdict
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.shared import Data, Draft, ResultFile, TasksInTurns
from vllm_specflash.lab.bench.console import announcer, wide_console
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.bench.engine import EngineFailed
from vllm_specflash.lab.bench.held_out import mixed_prompts
from vllm_specflash.lab.bench.result import write_result
from vllm_specflash.lab.bench.targets import find_target
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.checkout import EXAMPLE_DATA
from vllm_specflash.lab.serving.server import ServerFailed
from vllm_specflash.lab.soak.soak import SoakOptions, soak
from vllm_specflash.train.provenance import provenance


@with_options(options=SoakOptions)
def run(
    options: SoakOptions,
    target: Annotated[str, typer.Option(help="Demo target (scenes, sheets, smollm2), folder or hub id.")] = "scenes",
    draft: Draft = None,
    task: TasksInTurns = ["scenes", "clips", "chat"],
    data: Data = EXAMPLE_DATA,
    out: ResultFile = None,
) -> None:
    console, began = wide_console(), time.monotonic()
    try:
        with console.status("") as status:
            one = find_target(target, draft, tuple(task))
            prompts = mixed_prompts(options.prompts, one.tasks, data)
            result = soak(one, prompts, options, cache_root() / "logs", announcer(console, status, began))
    except (ValueError, OSError, EngineFailed, ServerFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    lines = list(result.lines())
    for line in lines:
        console.print(line, highlight=False, markup=False)
    if out is not None:
        record = {"provenance": provenance(), "device": device(), "options": asdict(options), "target": asdict(one),
                  "summary": lines, "result": asdict(result)}  # fmt: skip
        write_result(out, record)
    if not result.clean:
        raise typer.Exit(1)
