"""Measured figures on the pages and in README: what stands between `<!-- figure: NAME ARGUMENTS -->` and `<!-- / -->`.

    python docs/hooks/figures.py        # `make figures`: write them anew, and the plot, from docs/results

A page keeps its figures in its text, so that it also reads where nothing is built; tests/docs/test_figures.py fails where
one is not its record's, and where prose has a figure without a record.
"""

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import mean, median

from vllm_specflash.lab.bench.chart import Line, line_chart
from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.rows import plain_with_itself as plain_agreement
from vllm_specflash.lab.checkout import WEIGHTS

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "docs" / "results"
MARKED = re.compile(r"<!-- figure: (?P<words>[^>]+?) -->(?P<shown>.*?)<!-- / -->", re.DOTALL)
# What the tables of README say beside a task's name.
SEES = {
    "scenes": ", 64 visual tokens", "clips": ", up to 512 visual tokens", "sheets": ", 128 or 192 visual tokens",
    "chat": ", prompts like the training's", "everyday": ", chat of another make",
}  # fmt: skip
MIB = 2**20


def filled(text: str) -> str:
    """A page with every marked figure taken from its record.

    Raises:
        KeyError: there is no such figure, or no such row in the record.
    """
    return MARKED.sub(lambda found: f"<!-- figure: {found['words']} -->{_made(found['words'])}<!-- / -->", text)


def _made(words: str) -> str:
    name, *arguments = words.split()
    return FIGURES[name](*arguments)


@cache
def record(file: str) -> dict:
    return json.loads((RESULTS / f"{file}.json").read_text(encoding="utf-8"))


def row(file: str, task: str, batch: str, method: str = "specflash") -> dict:
    """A line of a benchmark's summary. Raises KeyError where it was not measured."""
    for one in record(file)["summary"]:
        if (one["task"], one["batch_size"], one["method"]) == (task, int(batch), method):
            return one
    raise KeyError(f"{file} has no {task} at batch {batch} by {method}")


def decoding(*cell: str) -> str:
    return f"{row(*cell)['decode_speed_up']['median']:.2f}x"


def end_to_end(*cell: str) -> str:
    return f"{row(*cell)['end_to_end_speed_up']['median']:.2f}x"


def machine(file: str) -> str:
    device, versions = record(file)["device"], record(file)["provenance"]["versions"]
    return f"{device['cores']} cores of an {device['cpu']}, vLLM {versions['vllm']}"


def speed_table(file: str) -> str:
    """All methods but plain vLLM, a block."""
    lines = [
        "| task | batch | method | decoding | end to end | tau | draft ms a step | same answers |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    previous = None
    for one in record(file)["summary"]:
        if one["decode_speed_up"] is None:
            continue
        # A task's name stands once, at its first row.
        task = "" if one["task"] == previous else one["task"] + (SEES[one["task"]] if one["batch_size"] == 1 else "")
        previous = one["task"]
        draft = one["step"]["draft network"] + one["step"]["draft host"]
        same = one["identical"].replace("/", " of ")
        lines.append(
            f"| {task} | {one['batch_size']} | {one['method']} | {one['decode_speed_up']['median']:.2f}x | "
            f"{one['end_to_end_speed_up']['median']:.2f}x | {one['acceptance_length']:.2f} | {draft:.2f} | {same} |"
        )
    return "\n" + "\n".join(lines).replace("|  |", "| |") + "\n\n"


def identity(file: str) -> str:
    agreement = record(file)["results"]["scenes"]["agreement"]
    return f"{agreement['identical']} of {agreement['compared']}"


def widest_gap(file: str) -> str:
    """Of the differences from plain vLLM, the widest gap between plain vLLM's two best logits, in steps of the dtype."""
    return f"{max(one['widest_gap'] or 0.0 for one in record(file)['summary']):.2g}"


def plain_with_itself(file: str, target: str, task: str) -> str:
    """Answers of plain vLLM that are the same at the smallest and the largest batch."""
    document = Document(RESULTS / f"{file}.json", record(file)["settings"])
    sizes = sorted({batch for name, of, batch in document.cells() if (name, of) == (target, task)})
    agreement = plain_agreement(document, target, task, sizes[0], sizes[-1])
    return f"{agreement.identical} of {agreement.compared}"


def kv_overhead(file: str, target: str) -> str:
    engines = record(file)["engines"][target]
    return f"{engines['specflash']['kv_bytes_per_slot'] / engines['plain']['kv_bytes_per_slot'] - 1:.1%}"


def resident(file: str, target: str, method: str) -> str:
    """Resident memory over plain vLLM's."""
    engines = record(file)["engines"][target]
    return f"{(engines[method]['resident_bytes'] - engines['plain']['resident_bytes']) / MIB:.0f} MiB"


def step(file: str, batch: str, *parts: str) -> str:
    """From the least to the greatest of all tasks: milliseconds of a decoding step, summed over these parts (`a_b` is `a b`)."""
    rows = [one for one in record(file)["summary"] if one["batch_size"] == int(batch) and one["method"] not in ("plain", "ngram")]
    found = [sum(({**one["step"], "verifying": one["verify_ms"]})[part.replace("_", " ")] for part in parts) for one in rows]
    return f"{min(found):.1f} to {max(found):.1f} ms"


def step_share(file: str, batch: str, *parts: str) -> str:
    """The same, of the step's wall time."""
    rows = [one for one in record(file)["summary"] if one["batch_size"] == int(batch) and one["method"] not in ("plain", "ngram")]
    found = [
        sum(({**one["step"], "verifying": one["verify_ms"]})[part.replace("_", " ")] for part in parts) / one["step"]["wall"]
        for one in rows
    ]
    return f"{100 * min(found):.0f} to {100 * max(found):.0f}%"


def ablation(row: str, what: str = "one_round") -> str:
    """Tau of a row over all answers, or `attended`: rows that a draft forward attends to."""
    (one,) = (one for one in record("ablation")["rows"] if one["row"]["name"] == row)
    return f"{one['attended_rows']:.0f}" if what == "attended" else f"{one['all'][what.replace('_', ' ')]:.2f}"


def ablation_gain(row: str, over: str) -> str:
    return f"{float(ablation(row)) / float(ablation(over)) - 1:.0%}"


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


def visual_context(tokens: str, what: str, form: str = "") -> str:
    """With so many visual tokens in the prompt: milliseconds or rows of one form, or its share of all rows' without one."""
    (one,) = (one for one in record("visual-context")["rows"] if one["visual_tokens"] == int(tokens))
    if form:
        value = one[form.replace("_", " ")][what]
        return f"{value:.0f}" if what.endswith("rows") else f"{value:.2f} ms"
    return f"{one['compressed'][what] / one['all rows'][what]:.2f}"


def attention_rows(shape: str, tokens: str, what: str = "") -> str:
    """Of a shape whose name begins so, with at least so many visual tokens: `rows` or `ms` with latents and without, or the share of time."""
    rows = [one for one in record("attention-rows")["rows"] if one["shape"].startswith(shape) and one["visual_tokens"] >= int(tokens)]
    small, large = rows[0][what or "ms"]
    return {"rows": f"{small} / {large}", "ms": f"{small:.2f} / {large:.2f} ms", "": f"{small / large:.2f}"}[what]


def gaze(which: str, *layers: str) -> str:
    """Attention of a layer's best head `on_the_name` or `on_the_next`, from the least to the greatest of some layers; the most of all without."""
    found = [record("gaze")[which][int(layer)] for layer in layers] or [max(record("gaze")[which])]
    return f"{min(found):.0%} to {max(found):.0%}" if layers else f"{found[0]:.0%}"


def soak_growth(file: str) -> str:
    (line,) = (line for line in record(file)["summary"] if "growth" in line)
    return re.search(r"\+([\d.]+)%", line)[1] + "%"


def tau_of_eval(file: str, task: str, kind: str) -> str:
    """`simulated`, `measured`, or the `difference` between them."""
    if kind == "difference":
        return f"{record(file)['measured'][task]['tau'] / record(file)['simulated'][task]['tau'] - 1:+.1%}"
    return f"{record(file)[kind][task]['tau']:.3f}"


def served_as_before(file: str) -> str:
    return f"{record(file)['identical']} of {record(file)['served']}"


def shipped(draft: str, what: str) -> str:
    """From the provenance beside a shipped draft."""
    made = json.loads((WEIGHTS / draft / "provenance.json").read_text(encoding="utf-8"))
    # `specflash train` and the trainings of sight say it in other places.
    said = {**made, **made.get("setting", {}), **made.get("recipe", {})}
    return f"{said[what]:,.0f}"


def ablation_seconds(row: str) -> str:
    (one,) = (one for one in record("ablation")["rows"] if one["row"]["name"] == row)
    return f"{one['train_seconds']:.0f} s"


def late_first_token(file: str, task: str, method: str) -> str:
    """Medians of the time to the first token over plain vLLM's, from the least to the greatest over batch sizes."""
    seconds: dict[tuple, list[float]] = {}
    for one in record(file)["passes"]:
        if one["task"] == task and one["method"] in (method, "plain"):
            found = seconds.setdefault((one["batch_size"], one["method"]), [])
            found += [output["first_seconds"] for output in one["outputs"]]
    ratios = [median(seconds[batch, method]) / median(seconds[batch, "plain"]) for batch in {batch for batch, _ in seconds}]
    least, greatest = (f"{ratio:.1f}" for ratio in (min(ratios), max(ratios)))
    return f"{least} times" if least == greatest else f"{least} to {greatest} times"


def repeats(file: str) -> str:
    """Passes that a benchmark's medians are of, in a word."""
    return {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}[record(file)["settings"]["plan"]["repeats"]]


def tau(*cell: str) -> str:
    return f"{row(*cell)['acceptance_length']:.2f}"


MAKERS = (
    decoding, end_to_end, machine, speed_table, identity, plain_with_itself, widest_gap, kv_overhead, resident, step, step_share, ablation,
    ablation_gain, simulated, simulated_gain, transition, soak_growth, tau_of_eval,
    served_as_before, shipped, ablation_seconds, late_first_token, sight, sight_steps, sight_gain, gaze, visual_context, attention_rows, repeats, tau,
)  # fmt: skip
FIGURES: dict[str, Callable[..., str]] = {made.__name__: made for made in MAKERS}
PLOT = ROOT / "docs" / "speed_up.svg"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def plot() -> str:
    """SVG: decoding's speed-up over plain vLLM by task, against requests at a time."""
    found: dict[str, dict[int, float]] = {}
    for file in ("bench-cpu", "bench-cpu-batch32"):
        for one in record(file)["summary"]:
            if one["method"] == "specflash":
                found.setdefault(one["task"], {})[one["batch_size"]] = one["decode_speed_up"]["median"]
    batches = sorted({batch for measured in found.values() for batch in measured})
    lines = [Line(task, [measured.get(batch) for batch in batches]) for task, measured in found.items()]
    return line_chart(batches, lines, "requests at a time", "decoding, times plain vLLM", even=True)


def main() -> None:
    PLOT.write_text(plot(), encoding="utf-8")
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"written: {page.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
