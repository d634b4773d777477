"""specflash doctor: one screen that says whether things fit together."""

import os
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vllm_specflash.lab.bench.console import wide_console

MARKS = {"ok": "[green]ok[/green]", "note": "[yellow]note[/yellow]", "fault": "[red]fault[/red]"}

# Of the libraries that would otherwise talk between the lines.
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "TRANSFORMERS_VERBOSITY": "error", "HF_HUB_VERBOSITY": "error"}


def run(
    target: Annotated[str | None, typer.Argument(help="Target: demo target (scenes, sheets, smollm2), folder or hub id.")] = None,
    draft: Annotated[str | None, typer.Option(help="Draft: folder or hub id; default: the target's own.")] = None,
    server: Annotated[str | None, typer.Option(help="Address of a running vllm serve: what its metrics say of its draft.")] = None,
) -> None:
    # Set before these are imported: this screen says what matters.
    for variable, level in QUIET.items():
        os.environ.setdefault(variable, level)
    from transformers.utils import logging

    from vllm_specflash.lab.bench.doctor import FAULT, examine, examine_server
    from vllm_specflash.lab.bench.targets import find_target

    logging.disable_progress_bar()
    console = wide_console()
    if server is not None and (target or draft):
        console.print("Name either a server or a target with its draft, not both.", style="red")
        raise typer.Exit(1)
    if target is not None:
        try:
            found = find_target(target, draft)
        except (OSError, ValueError) as error:
            console.print(str(error), style="red", markup=False, highlight=False)
            raise typer.Exit(1) from None
        target, draft = found.model, found.draft
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=False)
    faults = 0
    with console.status("examining"):
        for finding in examine(target, draft) if server is None else examine_server(server):
            faults += finding.state == FAULT
            advice = f"\n[bold]{_plain(finding.advice)}[/bold]" if finding.advice else ""
            table.add_row(MARKS[finding.state], finding.subject, _plain(finding.found) + advice)
    console.print(table)
    if faults:
        console.print("This will not work as it is.", style="red")
        raise typer.Exit(1)
    ready = "Ready." if target or server else "Ready. Name a target to examine it with its draft: specflash doctor TARGET [--draft DRAFT]"
    console.print(ready, style="green", highlight=False, markup=False)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")
