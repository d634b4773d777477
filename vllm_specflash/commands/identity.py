"""specflash identity: whether greedy answers are those of plain vLLM."""

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
from vllm_specflash.lab.bench.identity import NEAR_TIE_STEPS
from vllm_specflash.lab.bench.identity_check import IdentityOptions, IdentityResult, check_identity
from vllm_specflash.lab.bench.result import write_result
from vllm_specflash.lab.bench.targets import find_target
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.checkout import EXAMPLE_DATA
from vllm_specflash.train.provenance import provenance


@with_options(options=IdentityOptions)
def run(
    options: IdentityOptions,
    target: Annotated[list[str], typer.Option(help="Demo target, folder or hub id; may be repeated.")] = ["scenes"],
    draft: Draft = None,
    task: TasksInTurns = ["scenes", "clips", "chat"],
    data: Data = EXAMPLE_DATA,
    out: ResultFile = None,
) -> None:
    console, began, results = wide_console(), time.monotonic(), {}
    try:
        for name in target:
            with console.status("") as status:
                announce = announcer(console, status, began)
                one = find_target(name, draft, tuple(task))
                prompts = mixed_prompts(options.prompts, one.tasks, data)
                results[one.name] = check_identity(one, prompts, options, cache_root() / "logs", announce)
            for line in _lines(one.name, options.dtype, results[one.name]):
                console.print(line, highlight=False, markup=False)
    except (ValueError, OSError, EngineFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    if out is not None:
        record = {"provenance": provenance(), "device": device(), "options": asdict(options),
                  "results": {name: asdict(result) for name, result in results.items()}}  # fmt: skip
        write_result(out, record)
    if not all(result.agreement.explained for result in results.values()):
        raise typer.Exit(1)


def _lines(name: str, dtype: str, result: IdentityResult):
    agreement = result.agreement
    yield f"{name}, {dtype}, greedy: {agreement.identical} of {agreement.compared} outputs identical to plain vLLM's"
    yield "  " + ", ".join(f"{task} {of_task.identical}/{of_task.compared}" for task, of_task in result.by_task.items())
    yield (
        f"  mean length {result.mean_length:.0f} tokens; {result.draft_tokens} tokens drafted, "
        f"{result.accepted_tokens} accepted, {result.draft_errors} draft errors"
    )
    for difference in agreement.differences:
        verdict = "a tie" if difference.near_tie else f"more than {NEAR_TIE_STEPS:g} steps: not a tie"
        gap = "unknown" if difference.gap is None else f"{difference.gap:.2f}"
        yield f"  {difference.prompt_id} differs from token {difference.position} on: two best logits {gap} steps apart, {verdict}"
