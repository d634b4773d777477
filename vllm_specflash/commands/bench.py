"""`specflash bench`."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from vllm_specflash.bench.document import Document
from vllm_specflash.bench.engine import EngineFailed
from vllm_specflash.bench.footprint import draft_weights_mib, footprint
from vllm_specflash.bench.method import PLAIN, Method, parse_method
from vllm_specflash.bench.prompts import EXAMPLE_DATA
from vllm_specflash.bench.rows import plain_with_itself, rows
from vllm_specflash.bench.schedule import Benchmark, Plan
from vllm_specflash.bench.summary import Row
from vllm_specflash.bench.tables import speed_table, step_table
from vllm_specflash.bench.targets import Target, find_target

console = Console()


def run(
    target: Annotated[list[str], typer.Option(help="Demo target (scenes, smollm2), folder or hub id; may be repeated.")] = [
        "scenes",
        "smollm2",
    ],
    draft: Annotated[str | None, typer.Option(help="SpecFLASH draft; default: the one shipped or found for the target.")] = None,
    task: Annotated[list[str], typer.Option(help="Task (a file of --data, or a .jsonl file); default: the target's.")] = [],
    method: Annotated[
        list[str], typer.Option(help="plain, specflash, ngram, suffix, or NAME={...}: a speculative_config as JSON.")
    ] = ["specflash"],
    batch_size: Annotated[list[int], typer.Option(help="Requests at a time; may be repeated.")] = [1, 8],
    repeats: Annotated[int, typer.Option(help="Passes of every method, interleaved.")] = 5,
    prompts: Annotated[int, typer.Option(help="Prompts per task; at least the largest batch are used.")] = 8,
    min_tokens: Annotated[int, typer.Option(help="Pass over prompts whose plain answer is shorter.")] = 64,
    max_tokens: Annotated[int, typer.Option(help="Cut answers here.")] = 128,
    dtype: Annotated[str, typer.Option(help="Of the targets: bfloat16, float16 or float32.")] = "bfloat16",
    max_model_len: Annotated[int, typer.Option(help="Of the engines.")] = 2048,
    kv_cache_gib: Annotated[float, typer.Option(help="KV budget of every engine.")] = 1.0,
    max_minutes: Annotated[float, typer.Option(help="Begin no pass after this long; the same command goes on later.")] = 60.0,
    enforce_eager: Annotated[bool, typer.Option(help="Without compilation: for trying things out, never for figures.")] = False,
    data: Annotated[Path, typer.Option(help="Folder of the tasks' prompts.")] = EXAMPLE_DATA,
    out: Annotated[Path, typer.Option(help="JSON file; a run with the same settings continues it.")] = Path("bench.json"),
    plots: Annotated[Path | None, typer.Option(help="Folder for pictures.")] = None,
) -> None:
    """Compare SpecFLASH, and any of vLLM's own methods, with plain vLLM on the same prompts in the same run."""
    deadline = time.monotonic() + 60 * max_minutes
    try:
        targets = [find_target(name, draft, tuple(task)) for name in target]
        plans = {t.name: _plan(t, method, batch_size, repeats, prompts, min_tokens, max_tokens, dtype,
                               max_model_len, kv_cache_gib, enforce_eager) for t in targets}  # fmt: skip
        document = Document(out, {"targets": [asdict(t) for t in targets], "plans": {n: asdict(p) for n, p in plans.items()}})
        for one in targets:
            with console.status("") as status:
                announce = _announcer(status)
                Benchmark(plans[one.name], one, document, announce, data, deadline).run(out.with_suffix(".logs"))
            _report(document, one, dtype)
    except (ValueError, OSError, EngineFailed) as error:
        console.print(f"[red]{error}[/red]", highlight=False)
        raise typer.Exit(1) from None
    found = rows(document)
    document.data["summary"] = [asdict(row) for row in found]
    document.save()
    console.print(f"Written: {out}")
    if plots is not None and found:
        from vllm_specflash.bench.plots import draw_all

        for path in draw_all(found, plots):
            console.print(f"Drawn: {path}")


def _plan(target: Target, methods, batch_sizes, repeats, prompts, min_tokens, max_tokens, dtype, max_model_len,
          kv_cache_gib, enforce_eager) -> Plan:  # fmt: skip
    parsed = [parse_method(text, target.draft) for text in methods if text != PLAIN]
    return Plan(
        (Method(PLAIN, None), *parsed), tuple(batch_sizes), repeats, prompts, min_tokens, max_tokens, dtype,
        max_model_len, kv_cache_gib, enforce_eager,
    )  # fmt: skip


def _announcer(status):
    began = time.monotonic()

    def announce(text: str) -> None:
        status.update(f"[{time.monotonic() - began:4.0f} s] {text}")
        console.print(f"[dim][{time.monotonic() - began:4.0f} s] {text}[/dim]", highlight=False)

    return announce


def _report(document: Document, target: Target, dtype: str) -> None:
    found = [row for row in rows(document) if row.target == target.name]
    if not found:
        return
    console.print(speed_table(found, f"{target.name}, {dtype}, medians of {found[0].repeats}"))
    console.print(step_table(found))
    for line in [*_lengths(found), *_self_agreement(document, target), *_footprints(document, target, dtype, found)]:
        console.print(line, highlight=False)


def _lengths(found: list[Row]) -> list[str]:
    lengths = {row.task: row.mean_length for row in found if row.method == PLAIN}
    return ["Mean length of answers: " + ", ".join(f"{task} {length:.0f}" for task, length in lengths.items()) + " tokens"]


def _self_agreement(document: Document, target: Target) -> list[str]:
    sizes = sorted({batch_size for name, _, batch_size in document.cells() if name == target.name})
    lines = []
    for task in dict.fromkeys(task for name, task, _ in document.cells() if name == target.name):
        agreement = plain_with_itself(document, target.name, task, sizes[0], sizes[-1]) if len(sizes) > 1 else None
        if agreement is not None:
            lines.append(f"Plain vLLM with itself, {task}, batch {sizes[0]} and {sizes[-1]}: {agreement} identical")
    return lines


def _footprints(document: Document, target: Target, dtype: str, found: list[Row]) -> list[str]:
    engines, lines = document.engines(target.name), []
    for method, facts in engines.items():
        if method == PLAIN or PLAIN not in engines:
            continue
        mib = draft_weights_mib(Path(target.draft), 4 if dtype == "float32" else 2) if target.draft else None
        cost = footprint(engines[PLAIN], facts, mib if method == "specflash" else None)
        weights = "" if cost.draft_mib is None else f", the draft's weights being {cost.draft_mib:.1f} MiB"
        lines.append(
            f"{method}: {cost.kv_overhead:+.1%} KV per token ({cost.kv_bytes_per_slot:.0f} bytes in plain vLLM), "
            f"{cost.resident_overhead_mib:+.1f} MiB resident{weights}"
        )
    host = {}
    for row in found:
        if row.method == "specflash":
            host.setdefault(row.batch_size, []).append(row.step["draft host"])
    for batch_size, values in host.items():
        lines.append(f"specflash: {max(values):.2f} ms per step outside the target, the draft and vLLM at batch {batch_size}")
    return lines
