"""Tables that the commands print."""

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from vllm_specflash.train.simulate import Acceptance

if TYPE_CHECKING:
    from vllm_specflash.draft import SpecFlashConfig
    from vllm_specflash.lab.bench.acceptance import Measured
    from vllm_specflash.train.convert import ConversionReport


def print_skipped(skipped: Counter) -> None:
    """What was left out and why; silent when nothing was."""
    for reason, count in skipped.most_common():
        Console(stderr=True).print(f"skipped {count}: {reason}", markup=False)


def print_acceptance(results: dict[str, Acceptance], title: str) -> None:
    """Tau and acceptance per position of each task, and where chances are known how far they are off."""
    table = Table(title=title)
    for column in ("task", "forwards", "tau", "accepted at position 1, 2, ...", "calibration error"):
        table.add_column(column)
    for task, result in sorted(results.items()):
        positions = " ".join(f"{share:.2f}" for share in result.per_position)
        error = f"{result.calibration_error:.3f}" if result.decided.any() else "-"
        table.add_row(task, str(result.steps), f"{result.tau:.3f}", positions, error)
    Console().print(table)


def print_comparison(simulated: dict[str, Acceptance], served: "Measured") -> None:
    """Tau simulated and measured, side by side."""
    table = Table(title=f"{served.identical} of {served.answers} answers served as they were given before")
    for column in ("task", "simulated tau", "measured tau", "difference"):
        table.add_column(column)
    for task, measured in sorted(served.acceptance.items()):
        tau = simulated[task].tau
        table.add_row(task, f"{tau:.3f}", f"{measured.tau:.3f}", f"{measured.tau / tau - 1:+.1%}")
    Console().print(table)


def print_conversion(config: "SpecFlashConfig", report: "ConversionReport") -> None:
    """Every tensor of the converted draft with those it was made of, what was not kept, and what to know."""
    table = Table(title=f"K = {config.semi_ar_width}, M = {config.num_latents}, for {config.target_name}")
    for column in ("theirs", "ours"):
        table.add_column(column, overflow="fold")
    for one in report.mapped:
        table.add_row("\n".join(one.theirs).replace("[", r"\["), one.ours.replace("[", r"\["))
    console = Console()
    console.print(table)
    for name in report.dropped:
        console.print(f"not kept: {name}", markup=False, highlight=False, soft_wrap=True)
    for note in report.notes:
        console.print(f"note: {note}", markup=False, highlight=False, soft_wrap=True)
