"""From a benchmark's document to the rows of its table."""

from statistics import mean

from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.identity import Agreement, compare
from vllm_specflash.lab.bench.method import PLAIN
from vllm_specflash.lab.bench.records import Output
from vllm_specflash.lab.bench.summary import (
    Row,
    Spread,
    acceptance_per_position,
    speed_up,
    step_milliseconds,
    step_parts,
)


def rows(document: Document) -> list[Row]:
    """One row per target, task, batch size and method."""
    return [
        _row(document, cell, method, passes)
        for cell in document.cells()
        for method, passes in document.passes(*cell).items()
    ]


def _row(document: Document, cell: tuple[str, str, int], method: str, passes: list[dict]) -> Row:
    plain = document.passes(*cell).get(PLAIN, [])
    agreement = agreement_with_plain(document, cell, passes[0])
    decode = _values(passes, "decode_seconds_per_token")
    end_to_end = _values(passes, "seconds_per_token")
    compared = method != PLAIN and plain
    return Row(
        target=cell[0],
        task=cell[1],
        batch_size=cell[2],
        method=method,
        repeats=len(passes),
        mean_length=mean(_values(passes, "mean_length")),
        decode_ms=Spread.of([1000 * seconds for seconds in decode]),
        end_to_end_ms=Spread.of([1000 * seconds for seconds in end_to_end]),
        decode_speed_up=speed_up(_values(plain, "decode_seconds_per_token"), decode) if compared else None,
        end_to_end_speed_up=speed_up(_values(plain, "seconds_per_token"), end_to_end) if compared else None,
        acceptance_length=mean(_values(passes, "acceptance_length")),
        acceptance_per_position=acceptance_per_position(passes[0]["drafts"]),
        step=_mean_parts(passes),
        # Documents written before this was measured lack it.
        verify_ms=mean(
            step_milliseconds({"verify_seconds": 0.0} | record["steps"]["decode"], "verify") for record in passes
        ),
        draft_errors=sum(record["steps"]["draft_errors"] for record in passes),
        identical=f"{agreement.identical}/{agreement.compared}",
        widest_gap=max((d.gap for d in agreement.differences if d.gap is not None), default=None),
    )


def agreement_with_plain(document: Document, cell: tuple[str, str, int], one_pass: dict) -> Agreement:
    """A pass's answers against plain vLLM's reference at the same batch size."""
    return compare(document.reference(*cell) or {}, [Output(**output) for output in one_pass["outputs"]])


def plain_with_itself(document: Document, target: str, task: str, one: int, other: int) -> Agreement | None:
    """Plain vLLM's reference answers at one batch size against those at another; None if either is missing."""
    reference, outputs = document.reference(target, task, one), document.reference(target, task, other)
    if reference is None or outputs is None:
        return None
    return compare(reference, list(outputs.values()))


def _values(passes: list[dict], name: str) -> list[float]:
    return [record[name] for record in passes]


def _mean_parts(passes: list[dict]) -> dict[str, float]:
    parts = [step_parts(record["steps"]["decode"]) for record in passes]
    return {part: mean(values[part] for values in parts) for part in parts[0]}
