"""Results as tables in a terminal."""

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from vllm_specflash.lab.bench.method import PLAIN
from vllm_specflash.lab.bench.summary import Row, Spread

SPEED_COLUMNS = (
    ("task", "left"),
    ("batch", "right"),
    ("method", "left"),
    ("decoding\ntok/s", "right"),
    ("all in\ntok/s", "right"),
    ("decoding\nspeed-up", "right"),
    ("all in\nspeed-up", "right"),
    ("tau", "right"),
    ("draft ms\na step", "right"),
    ("same as\nplain", "right"),
)
SPEED_CAPTION = (
    "decoding: tokens after the first, per request; all in: end to end with image processing and prefill, all requests "
    "together; tau: tokens per target forward; draft: share of plain vLLM's step"
)


def speed_table(rows: Sequence[Row], title: str) -> Table:
    """Tokens per second, speed-ups, tau, draft time, identical answers; one line per row."""
    table = _table(title, SPEED_COLUMNS, SPEED_CAPTION)
    previous = None
    for row in rows:
        cell = (row.target, row.task, row.batch_size)
        if previous is not None and cell != previous:
            table.add_section()
        previous = cell
        plain = row.method == PLAIN
        table.add_row(
            row.task,
            str(row.batch_size),
            row.method,
            f"{1000 / row.decode_ms.median:.0f}",
            f"{1000 / row.end_to_end_ms.median:.0f}",
            _times(row.decode_speed_up),
            _times(row.end_to_end_speed_up),
            "" if plain else f"{row.acceptance_length:.2f}",
            "" if plain else _draft_time(row, rows),
            row.identical,
        )
    return table


def acceptance_table(rows: Sequence[Row]) -> Table:
    """How often the draft's i-th token was accepted."""
    shown = [row for row in rows if row.acceptance_per_position]
    width = max((len(row.acceptance_per_position) for row in shown), default=0)
    columns = [("task", "left"), ("batch", "right"), ("method", "left"), *((str(i + 1), "right") for i in range(width))]
    table = _table("share of drafts accepted up to position", columns)
    for row in shown:
        shares = (f"{share:.2f}".removeprefix("0") for share in row.acceptance_per_position)
        table.add_row(row.task, str(row.batch_size), row.method, *shares)
    return table


def step_table(rows: Sequence[Row]) -> Table:
    """Where a decoding step's time goes, milliseconds."""
    parts = [(part.replace(" ", "\n"), "right") for part in (*rows[0].step, "of it verifying")]
    table = _table("a decoding step, ms", [("task", "left"), ("batch", "right"), ("method", "left"), *parts])
    for row in rows:
        table.add_row(row.task, str(row.batch_size), row.method, *(f"{ms:.2f}" for ms in (*row.step.values(), row.verify_ms)))
    return table


LIMIT_CAPTION = (
    "limit: tau, what free drafting and verifying would give; reached: plain's step over this method's, times tau; "
    "the other columns: what a step takes longer than plain's, ms"
)


def limit_table(rows: Sequence[Row]) -> Table:
    """How far each method is from a step that costs what plain vLLM's does, and where the difference lies; needs plain's rows."""
    parts = [part for part in rows[0].step if part != "wall"]
    columns = [("task", "left"), ("batch", "right"), ("method", "left"), ("limit", "right"), ("reached", "right")]
    table = _table("the limit, and what keeps from it", [*columns, *((part.replace(" ", "\n"), "right") for part in parts)], LIMIT_CAPTION)
    for row in rows:
        plain = _plain_of(row, rows)
        if row.method == PLAIN or plain is None or not row.step["wall"]:
            continue
        reached = row.acceptance_length * plain.step["wall"] / row.step["wall"]
        losses = (f"{row.step[part] - plain.step[part]:+.2f}" for part in parts)
        table.add_row(
            row.task, str(row.batch_size), row.method, f"{row.acceptance_length:.2f}x", f"{reached:.2f}x", *losses
        )  # fmt: skip
    return table


def _plain_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Plain vLLM's row on the same prompts."""
    cell = (row.target, row.task, row.batch_size)
    return next((r for r in rows if r.method == PLAIN and (r.target, r.task, r.batch_size) == cell), None)


def _table(title: str, columns: Sequence[tuple[str, str]], caption: str | None = None) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", caption=caption, caption_justify="left", box=SIMPLE_HEAD,
        pad_edge=False, padding=(0, 1),
    )  # fmt: skip
    for header, justify in columns:
        table.add_column(header, justify=justify, no_wrap=True)
    return table


def _draft_time(row: Row, rows: Sequence[Row]) -> str:
    """Draft time per step, and its share of plain vLLM's step on the same prompts."""
    draft = row.step["draft network"] + row.step["draft host"]
    plain = _plain_of(row, rows)
    if plain is None or not plain.step["wall"]:
        return f"{draft:.2f}"
    return f"{draft:.2f} ({draft / plain.step['wall']:.0%})"


def _times(spread: Spread | None) -> str:
    return "" if spread is None else f"{spread.median:.2f}x"
