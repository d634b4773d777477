"""Results as pictures: `specflash bench --plots FOLDER`."""

from collections.abc import Sequence
from pathlib import Path

from vllm_specflash.lab.bench.method import PLAIN
from vllm_specflash.lab.bench.summary import Row

# Okabe and Ito's palette, told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")


def draw_all(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Every picture the rows allow, as SVG; returns the files written."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False})
    folder.mkdir(parents=True, exist_ok=True)
    drawings = {
        "speed-up-by-task": speed_up_by_task,
        "speed-up-by-batch": speed_up_by_batch,
        "acceptance-by-position": acceptance_by_position,
        "step-time": step_time,
    }
    written = []
    for name, draw in drawings.items():
        figure = draw(rows)
        if figure is not None:
            written.append(folder / f"{name}.svg")
            figure.savefig(written[-1], bbox_inches="tight")
    return written


def speed_up_by_task(rows: Sequence[Row]):
    """Bars at the smallest batch: decoding full, end to end pale, whiskers from the least to the greatest repeat."""
    batch = min(row.batch_size for row in rows)
    shown = [row for row in rows if row.batch_size == batch and row.decode_speed_up]
    if not shown:
        return None
    tasks, methods = _unique(row.task for row in shown), _unique(row.method for row in shown)
    figure, axes = _figure(1.6 + 1.4 * len(tasks) * max(1, len(methods) / 2))
    width = 0.8 / (2 * len(methods))
    for m, method in enumerate(methods):
        for kind, (attribute, alpha) in enumerate((("decode_speed_up", 1.0), ("end_to_end_speed_up", 0.45))):
            points = [(t, getattr(r, attribute)) for t, task in enumerate(tasks) for r in shown
                      if (r.task, r.method) == (task, method)]  # fmt: skip
            at = [t - 0.4 + width * (2 * m + kind + 0.5) for t, _ in points]
            label = f"{method}, {'decoding' if kind == 0 else 'end to end'}"
            heights = [spread.median for _, spread in points]
            whiskers = [[s.median - s.least for _, s in points], [s.greatest - s.median for _, s in points]]
            bars = axes.bar(at, heights, width, yerr=whiskers, color=COLOURS[m], alpha=alpha, label=label, capsize=2)
            axes.bar_label(bars, fmt="%.2f", fontsize=7)
    axes.set_xticks(range(len(tasks)), tasks)
    return _finish(figure, axes, "speed-up over plain vLLM", f"batch {batch}")


def speed_up_by_batch(rows: Sequence[Row]):
    """Decoding speed-up against batch size, a line per task and method."""
    shown = [row for row in rows if row.decode_speed_up]
    if len({row.batch_size for row in shown}) < 2:
        return None
    figure, axes = _figure(5)
    methods = _unique(row.method for row in shown)
    for line, (task, method) in enumerate(_unique((row.task, row.method) for row in shown)):
        points = sorted((r.batch_size, r.decode_speed_up) for r in shown if (r.task, r.method) == (task, method))
        axes.errorbar(
            [batch for batch, _ in points],
            [spread.median for _, spread in points],
            yerr=[[s.median - s.least for _, s in points], [s.greatest - s.median for _, s in points]],
            label=f"{task}, {method}", marker="o", capsize=2, color=COLOURS[line % len(COLOURS)],
            linestyle="-" if method == methods[0] else "--",
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    batches = sorted({row.batch_size for row in shown})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.set_xlabel("requests at a time")
    return _finish(figure, axes, "decoding speed-up over plain vLLM", None)


def acceptance_by_position(rows: Sequence[Row]):
    """Share of drafts whose i-th token was accepted, at the smallest batch."""
    batch = min(row.batch_size for row in rows)
    shown = [row for row in rows if row.batch_size == batch and row.acceptance_per_position]
    if not shown:
        return None
    figure, axes = _figure(5)
    for line, row in enumerate(shown):
        positions = range(1, len(row.acceptance_per_position) + 1)
        axes.plot(positions, row.acceptance_per_position, marker="o", color=COLOURS[line % len(COLOURS)],
                  label=f"{row.task}, {row.method} (tau {row.acceptance_length:.2f})")  # fmt: skip
    axes.set_xticks(range(1, max(len(row.acceptance_per_position) for row in shown) + 1))
    axes.set_xlabel("position in the draft")
    axes.set_ylim(0, 1)
    return _finish(figure, axes, "share accepted", None)


def step_time(rows: Sequence[Row]):
    """Stacked bars of one decoding step, plain vLLM beside the others."""
    figure, axes = _figure(2 + 0.7 * len(rows))
    parts = [part for part in rows[0].step if part != "wall"]
    labels = [f"{row.method}\n{row.task}\nbatch {row.batch_size}" for row in rows]
    bottom = [0.0] * len(rows)
    for colour, part in zip(COLOURS, parts):
        heights = [max(0.0, row.step[part]) for row in rows]
        axes.bar(range(len(rows)), heights, 0.7, bottom=bottom, label=part, color=colour)
        bottom = [b + h for b, h in zip(bottom, heights)]
    for x, (row, top) in enumerate(zip(rows, bottom)):
        tokens = 1.0 if row.method == PLAIN else row.acceptance_length
        axes.text(x, top, f"{tokens:.1f} tok", ha="center", va="bottom", fontsize=7)
    axes.set_xticks(range(len(rows)), labels, fontsize=7)
    return _finish(figure, axes, "ms per decoding step", None, line=False)


def _figure(width: float):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(4.0, width), 3.2))
    return figure, figure.subplots()


def _finish(figure, axes, y_label: str, title: str | None, line: bool = True):
    axes.set_ylabel(y_label)
    if line and "speed-up" in y_label:
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    if title:
        axes.set_title(title, loc="left")
    axes.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _unique(values) -> list:
    return list(dict.fromkeys(values))
