"""Predictions as a table and a plot."""

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vllm_specflash.lab.bench.chart import Line, line_chart
from vllm_specflash.lab.bench.predict.model import Costs, break_even, predicted, survival_of

TAUS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
# Tokens per target forward that were reached: by our own drafts (docs/results/bench-cpu.json), and as others report.
REACHED = (
    ("text-only drafts on pictures (EAGLE-3 on Qwen2.5-VL, arXiv 2603.14989)", "about 2"),
    ("open chat, a target of 135M parameters (the demo's)", "2 to 3"),
    ("pictures of a small world (the demo's)", "about 7"),
)


def taus(depth: int) -> list[float]:
    return [tau for tau in TAUS if tau <= depth + 1]


def prediction_table(costs: Sequence[Costs], depth: int, own: Sequence[float] | None) -> Table:
    """Speed-up of decoding over plain vLLM, a line per acceptance length; `own` are the shares of a draft that was measured."""
    table = Table(
        "tokens per forward (tau)", *(f"batch {one.requests}" for one in costs), box=SIMPLE_HEAD, title_justify="left",
        title=f"predicted speed-up of decoding, drafts of up to {depth} tokens", caption_justify="left",
        caption="tau: with all of the draft's tokens verified; the tokens that pay at each load are in brackets",
    )  # fmt: skip
    for tau in taus(depth):
        table.add_row(f"{tau:g}", *(_cell(survival_of(tau, depth), one) for one in costs))
    if own is not None:
        table.add_section()
        table.add_row(f"your draft: {1 + sum(own):.2f}", *(_cell(own, one) for one in costs))
    return table


def _cell(survival: Sequence[float], costs: Costs) -> str:
    found = predicted(survival, costs)
    return f"{found.speed_up:.2f}x ({found.drafted})" if found.drafted else "1.00x (none pays)"


def sentences(costs: Sequence[Costs], depth: int) -> Iterator[str]:
    """What was measured, where drafting begins to pay, and what tau has been reached."""
    for one in costs:
        least = break_even(one, depth)
        pays = "no draft of this length pays" if least is None else f"drafting pays from a tau of {least:.2f} on"
        yield (
            f"batch {one.requests}: a plain step takes {1e3 * one.plain:.1f} ms, one that verifies {depth} drafted tokens per request "
            f"{1e3 * one.full:.1f} ms, drafting them {1e3 * one.draft:.1f} ms; {pays}"
        )
    yield "tau that was reached:"
    for what, tau in REACHED:
        yield f"  {tau:8s} {what}"


def prediction_plot(costs: Sequence[Costs], depth: int, own: Sequence[float] | None) -> str:
    """SVG: speed-up against tau, a line per batch size; a draft that was measured is a dot on each."""
    points = taus(depth)
    lines = [Line(f"batch {one.requests}", [predicted(survival_of(tau, depth), one).speed_up for tau in points]) for one in costs]
    marks = [] if own is None else [(1 + sum(own), predicted(own, one).speed_up) for one in costs]
    return line_chart(points, lines, "tokens per target forward (tau)", "predicted speed-up", marks=marks)
