"""specflash bench: SpecFLASH and vLLM's own methods against plain vLLM."""

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.shared import Data
from vllm_specflash.config import SpecFlashError
from vllm_specflash.engine.synthetic import SYNTHETIC_WARNING
from vllm_specflash.lab.bench.console import announcer, wide_console
from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.engine import EngineFailed
from vllm_specflash.lab.bench.method import PLAIN, Method, chances, parse_method, synthetic_methods
from vllm_specflash.lab.bench.random_draft import random_draft
from vllm_specflash.lab.bench.report import report
from vllm_specflash.lab.bench.rows import rows
from vllm_specflash.lab.bench.schedule import Benchmark, Plan
from vllm_specflash.lab.bench.targets import Target, find_target
from vllm_specflash.lab.checkout import EXAMPLE_DATA


@with_options(plan=Plan)
def run(
    plan: Plan,
    target: Annotated[list[str], typer.Option(help="Demo target (scenes, sheets, smollm2), folder or hub id; may be repeated.")] = [
        "scenes",
        "sheets",
        "smollm2",
    ],
    draft: Annotated[str | None, typer.Option(help="SpecFLASH draft; default: the one shipped or found for the target.")] = None,
    task: Annotated[list[str], typer.Option(help="Task of --data; may be repeated; default: the target's own.")] = [],
    method: Annotated[
        list[str],
        typer.Option(
            help="specflash, ngram, suffix, eagle3=FOLDER (a draft of `specflash eagle3`, or a folder of several called like their targets), or "
            "NAME={...}: a speculative_config as JSON; may be repeated."
        ),
    ] = ["specflash"],
    synthetic_acceptance: Annotated[
        str | None,
        typer.Option(
            help="P1,P2,...: accept SpecFLASH's drafts by these chances per depth, whatever the target says, with a random draft "
            "unless --draft names one. Shows the engine's own speed on any target; the answers mean nothing."
        ),
    ] = None,
    batch_size: Annotated[list[int], typer.Option(min=1, help="Requests at a time; may be repeated.")] = [1, 8],
    max_minutes: Annotated[float, typer.Option(min=0, help="Measure a target no longer than this, beyond the first repeat; repeat to go on.")] = 60,
    data: Data = EXAMPLE_DATA,
    out: Annotated[Path, typer.Option(help="JSON file; the same command continues an unfinished one.")] = Path("bench.json"),
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
) -> None:
    console, began = wide_console(), time.monotonic()
    try:
        if plots is not None and find_spec("matplotlib") is None:
            raise SpecFlashError("--plots draws with matplotlib: pip install matplotlib, or leave it out.")
        targets = [find_target(name, draft, tuple(task)) for name in target]
        methods = {one.name: _compared(method, one) for one in targets}
        compared = {one.name for of_target in methods.values() for one in of_target}
        useless = next((text for text in method if text.partition("=")[0] not in compared), None)
        if useless is not None:
            raise SpecFlashError(f"{useless} has no draft for {' or '.join(methods)}: name a draft's folder, or one of drafts called like targets.")
        if synthetic_acceptance is not None:
            plan = replace(plan, ignore_eos=True)
            rates = chances(synthetic_acceptance)
            for one in targets:
                guess = draft or str(random_draft(one.model, out.with_suffix(".drafts") / one.name))
                own = [m for m in methods[one.name] if not m.is_specflash]
                methods[one.name] = (*own, *synthetic_methods(rates, guess))
            console.print(SYNTHETIC_WARNING, style="bold red", highlight=False)
        settings = {"plan": asdict(plan), "batch_sizes": batch_size, "targets": [asdict(one) for one in targets],
                    "methods": {name: [asdict(m) for m in given] for name, given in methods.items()}}  # fmt: skip
        document = Document(out, settings)
        for one in targets:
            with console.status("") as status:
                announce = announcer(console, status, began)
                sizes, seconds = tuple(dict.fromkeys(batch_size)), 60 * max_minutes
                benchmark = Benchmark(plan, methods[one.name], sizes, one, document, announce, data, seconds)
                benchmark.run(out.with_suffix(".logs"))
            for part in report(document, one, plan.dtype):
                console.print(part, highlight=False)
    except (ValueError, OSError, EngineFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    found = rows(document)
    document.data["summary"] = [asdict(row) for row in found]
    document.save()
    console.print(f"written: {out}", highlight=False)
    if plots is not None and found:
        from vllm_specflash.lab.bench.plots import draw_all

        for path in draw_all(found, plots):
            console.print(f"drawn: {path}", highlight=False)


def _compared(texts: Sequence[str], target: Target) -> tuple[Method, ...]:
    """Plain vLLM, then the methods that the user wrote and that have a draft for it, each once.

    Raises:
        SpecFlashError: two of them have one name.
    """
    given = (parse_method(text, target.draft).on(target.name) for text in dict.fromkeys(texts) if text != PLAIN)
    methods = [one for one in given if one is not None]
    names = [PLAIN, *(one.name for one in methods)]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SpecFlashError(f"Two methods are called {twice!r}: figures are told apart by name, so give each its own, as in NAME={{...}}.")
    return (Method(PLAIN, None), *methods)
