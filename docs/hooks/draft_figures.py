"""Figures of what drafts are worth: what trainings, `specflash eval` and looks into a target's attention found."""

import json
import re
from statistics import mean

from records import record

from vllm_specflash.lab.checkout import WEIGHTS


def ablation(row: str, what: str = "one_round", file: str = "ablation") -> str:
    """Of a row over all answers: tau, or `attended` (rows that a draft forward attends to), `first` (accepted first tokens), `calibration`."""
    one = _ablated(row, file)
    if what == "attended":
        return f"{one['attended_rows']:.0f}"
    if what == "first":
        return f"{one['first']:.2f}"
    if what == "calibration":
        return f"{one['calibration_error']:.3f}"
    return f"{one['all'][what.replace('_', ' ')]:.2f}"


def ablation_gain(row: str, over: str) -> str:
    return f"{float(ablation(row)) / float(ablation(over)) - 1:.0%}"


def ablation_seconds(row: str) -> str:
    return f"{_ablated(row, 'ablation')['train_seconds']:.0f} s"


def _ablated(row: str, file: str) -> dict:
    (one,) = (one for one in record(file)["rows"] if one["row"]["name"] == row)
    return one


def simulated(task: str, shape: str) -> str:
    """Tau by `specflash eval`, in `chains` or `trees`."""
    return f"{_simulated(task, shape):.2f}"


def simulated_gain(task: str) -> str:
    """Of trees over chains."""
    return f"{_simulated(task, 'trees') / _simulated(task, 'chains') - 1:+.0%}"


def transition(given: str) -> str:
    """Tau on chat in trees of 16, of the draft `with` or `without` a transition term."""
    return f"{record('trees-simulated')[f'chat, 500 steps {given} transition, trees of 16']['simulated']['chat']['tau']:.2f}"


def _simulated(task: str, shape: str) -> float:
    drafts = "chat" if task == "chat" else "scenes and clips"
    shapes = {"chains": "chains", "trees": "trees of 16"}
    return record("trees-simulated")[f"{drafts}, {shapes[shape]}"]["simulated"][task]["tau"]


def tau_of_eval(file: str, task: str, kind: str) -> str:
    """`simulated`, `measured`, or the `difference` between them."""
    if kind == "difference":
        return f"{record(file)['measured'][task]['tau'] / record(file)['simulated'][task]['tau'] - 1:+.1%}"
    return f"{record(file)[kind][task]['tau']:.3f}"


def served_as_before(file: str) -> str:
    return f"{record(file)['identical']} of {record(file)['served']}"


def sight(file: str, name: str, what: str = "tau") -> str:
    """Tau, or `names` that a draft gave, or `rows` it attends to: a row of the table of sight, its name with dashes; of several seeds the mean.

    Where a file has several tasks, one is named: FILE:TASK.
    """
    file, _, task = file.partition(":")
    rows = [one["tasks"] for one in record(file)["rows"] if re.sub(r"\W+", "-", one["row"]) == name]
    found = [tasks[task] if task else next(iter(tasks.values())) for tasks in rows]
    if what == "tau":
        return f"{mean(one['tau'] for one in found):.2f}"
    return f"{mean(one['names_drafted'] for one in found):.0%}" if what == "names" else f"{mean(one['attended_rows'] for one in found):.0f}"


def sight_steps(file: str) -> str:
    """That each row of the table of sight was trained for."""
    (steps,) = {one["setting"]["steps"] for one in record(file)["rows"]}
    return f"{steps:,}"


def sight_gain(file: str, name: str, over: str) -> str:
    return f"{float(sight(file, name)) / float(sight(file, over)) - 1:+.0%}"


def gaze(which: str, *layers: str) -> str:
    """Attention of a layer's best head `on_the_name` or `on_the_next`, from the least to the greatest of some layers; the most of all without."""
    found = [record("gaze")[which][int(layer)] for layer in layers] or [max(record("gaze")[which])]
    return f"{min(found):.0%} to {max(found):.0%}" if layers else f"{found[0]:.0%}"


def shipped(draft: str, what: str) -> str:
    """From the provenance beside a shipped draft."""
    made = json.loads((WEIGHTS / draft / "provenance.json").read_text(encoding="utf-8"))
    # `specflash train` and the trainings of sight say it in other places.
    said = {**made, **made.get("setting", {}), **made.get("recipe", {})}
    return f"{said[what]:,.0f}"


def peer(file: str, what: str) -> str:
    """From the provenance of an EAGLE-3 peer's training: `answers`, `parameters`, an option; `tau` of chains with a task after it."""
    made = record(file)
    what, _, task = what.partition(":")
    if task:
        return f"{made['held_out'][task][what]:.2f}"
    said = {**made, **made["options"]}
    return f"{said[what]:,.0f}"


MAKERS = (
    ablation, ablation_gain, ablation_seconds, simulated, simulated_gain, transition, tau_of_eval, served_as_before,
    sight, sight_steps, sight_gain, gaze, shipped, peer,
)  # fmt: skip
