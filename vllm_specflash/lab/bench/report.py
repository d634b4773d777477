"""What `specflash bench` prints for a target."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import RenderableType

from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.footprint import draft_weights_mib, footprint
from vllm_specflash.lab.bench.method import PLAIN
from vllm_specflash.lab.bench.rows import plain_with_itself, rows
from vllm_specflash.lab.bench.summary import Row
from vllm_specflash.lab.bench.tables import acceptance_table, limit_table, speed_table, step_table
from vllm_specflash.lab.bench.targets import Target


def report(document: Document, target: Target, dtype: str) -> Iterator[RenderableType]:
    """Tables and lines about one target; nothing if no pass was made."""
    found = [row for row in rows(document) if row.target == target.name]
    if not found:
        return
    yield speed_table(found, f"{target.name}, {dtype}, {min(row.repeats for row in found)} repeats")
    if any(row.acceptance_per_position for row in found):
        yield acceptance_table(found)
    yield step_table(found)
    if any(row.method == PLAIN for row in found):
        yield limit_table(found)
    yield from _spreads(found)
    yield from _agreement(document, target, found)
    yield from _footprints(document, target, dtype, found)
    errors = sum(row.draft_errors for row in found)
    if errors:
        yield f"SpecFLASH's draft side failed in {errors} steps: see the engine's log."


def _spreads(found: Sequence[Row]) -> Iterator[str]:
    lengths = {row.task: row.mean_length for row in found if row.method == PLAIN}
    yield "mean answer: " + ", ".join(f"{task} {length:.0f} tokens" for task, length in lengths.items())
    for row in found:
        if row.decode_speed_up:
            yield (
                f"speed-up of {row.method}, {row.task}, batch {row.batch_size}: median (least-greatest): decoding "
                f"{row.decode_speed_up}, all in {row.end_to_end_speed_up}"
            )


def _agreement(document: Document, target: Target, found: Sequence[Row]) -> Iterator[str]:
    sizes = sorted({row.batch_size for row in found})
    for task in dict.fromkeys(row.task for row in found) if len(sizes) > 1 else ():
        agreement = plain_with_itself(document, target.name, task, sizes[0], sizes[-1])
        if agreement is not None:
            yield f"plain vLLM at batch {sizes[0]} and {sizes[-1]}, {task}: {agreement} answers identical"
    for row in found:
        if row.method != PLAIN and row.widest_gap is not None:
            yield (
                f"{row.method}, {row.task}, batch {row.batch_size}: {row.identical} identical to plain; at first "
                f"differences plain's two best logits lie at most {row.widest_gap:.2g} steps apart"
            )


def _footprints(document: Document, target: Target, dtype: str, found: Sequence[Row]) -> Iterator[str]:
    engines = document.engines(target.name)
    for method, facts in engines.items():
        if method == PLAIN or PLAIN not in engines:
            continue
        of_draft = target.draft if method == "specflash" else None
        weights = draft_weights_mib(Path(of_draft), 4 if dtype == "float32" else 2) if of_draft else None
        cost = footprint(engines[PLAIN], facts, weights)
        yield (
            f"{method}: {cost.kv_overhead:+.1%} KV per token (plain: {cost.kv_bytes_per_slot:.0f} bytes), "
            f"{cost.resident_overhead_mib:+.1f} MiB resident"
            + ("" if weights is None else f" (the draft's weights: {weights:.1f} MiB)")
        )
    for batch_size in sorted({row.batch_size for row in found if row.method == "specflash"}):
        ours = [row for row in found if (row.method, row.batch_size) == ("specflash", batch_size)]
        host = [row.step["draft host"] + row.verify_ms for row in ours]
        yield f"specflash: {max(host):.2f} ms a step outside the target, the draft and vLLM's own code at batch {batch_size}"
