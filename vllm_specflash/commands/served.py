"""specflash served: what of a benchmark's speed-up reaches the clients of a server."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.shared import Data, Draft, ResultFile
from vllm_specflash.lab.bench.console import announcer, wide_console
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.bench.document import Document, read
from vllm_specflash.lab.bench.result import write_result
from vllm_specflash.lab.bench.targets import find_target
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.checkout import EXAMPLE_DATA
from vllm_specflash.lab.serving.served import ServedOptions, ServedRow, measure_served
from vllm_specflash.lab.serving.server import ServerFailed
from vllm_specflash.train.provenance import provenance

COLUMNS = ("task", "clients", "decoding", "offline", "all in", "offline", "ms to first token", "plain", "same answers")


@with_options(options=ServedOptions)
def run(
    options: ServedOptions,
    benchmark: Annotated[Path, typer.Argument(help="JSON file of specflash bench, for prompts and settings.")],
    target: Annotated[str, typer.Option(help="Demo target, folder or hub id; as in the benchmark.")] = "scenes",
    draft: Draft = None,
    task: Annotated[list[str], typer.Option(help="Tasks; may be repeated; default: the target's own.")] = [],
    data: Data = EXAMPLE_DATA,
    out: ResultFile = None,
) -> None:
    console, began = wide_console(), time.monotonic()
    try:
        if not benchmark.is_file():
            raise FileNotFoundError(f"There is no file {benchmark}: make it with specflash bench --out {benchmark}.")
        settings = read(benchmark)["settings"]
        one = find_target(target, draft, tuple(task))
        with console.status("") as status:
            announce = announcer(console, status, began)
            rows = measure_served(Document(benchmark, settings), one, options, data, cache_root() / "logs", announce)
    except (ValueError, OSError, ServerFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    console.print(_table(rows))
    if out is not None:
        record = {"provenance": provenance(), "device": device(), "options": asdict(options),
                  "rows": [asdict(row) for row in rows]}  # fmt: skip
        write_result(out, record)


def _table(rows: list[ServedRow]) -> Table:
    table = Table(*COLUMNS, box=SIMPLE_HEAD, title="speed-ups over plain vLLM: served, and offline in the benchmark")
    for row in rows:
        table.add_row(
            row.task, str(row.clients), str(row.decode_speed_up), _times(row.offline_decode),
            str(row.end_to_end_speed_up), _times(row.offline_end_to_end), f"{row.first_ms:.0f}",
            f"{row.plain_first_ms:.0f}", row.identical,
        )  # fmt: skip
    return table


def _times(speed_up: float | None) -> str:
    return "" if speed_up is None else f"{speed_up:.2f}"
