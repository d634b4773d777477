"""Figures of how fast and how right serving is: what the benchmarks and the soak measured."""

import re
from statistics import median

from records import RESULTS, record

from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.method import EAGLE3, OWN_METHODS, PLAIN
from vllm_specflash.lab.bench.rows import plain_with_itself as plain_agreement

# What the tables of README say beside a task's name.
SEES = {
    "scenes": ", 64 visual tokens", "clips": ", up to 512 visual tokens", "sheets": ", 128 or 192 visual tokens",
    "chat": ", prompts like the training's", "everyday": ", chat of another make",
}  # fmt: skip
MIB = 2**20
# Methods that are not ours, whatever a benchmark called ours.
OTHERS = (PLAIN, EAGLE3, *OWN_METHODS)


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


def tau(*cell: str) -> str:
    return f"{row(*cell)['acceptance_length']:.2f}"


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
    rows = [one for one in record(file)["summary"] if one["batch_size"] == int(batch) and one["method"] not in OTHERS]
    found = [sum(({**one["step"], "verifying": one["verify_ms"]})[part.replace("_", " ")] for part in parts) for one in rows]
    return f"{_range(found)} ms"


def step_share(file: str, batch: str, *parts: str) -> str:
    """The same, of the step's wall time."""
    rows = [one for one in record(file)["summary"] if one["batch_size"] == int(batch) and one["method"] not in OTHERS]
    found = [
        sum(({**one["step"], "verifying": one["verify_ms"]})[part.replace("_", " ")] for part in parts) / one["step"]["wall"]
        for one in rows
    ]
    return f"{100 * min(found):.0f} to {100 * max(found):.0f}%"


def late_first_token(file: str, task: str, method: str) -> str:
    """Medians of the time to the first token over plain vLLM's, from the least to the greatest over batch sizes."""
    seconds: dict[tuple, list[float]] = {}
    for one in record(file)["passes"]:
        if one["task"] == task and one["method"] in (method, "plain"):
            found = seconds.setdefault((one["batch_size"], one["method"]), [])
            found += [output["first_seconds"] for output in one["outputs"]]
    ratios = [median(seconds[batch, method]) / median(seconds[batch, "plain"]) for batch in {batch for batch, _ in seconds}]
    return f"{_range(ratios)} times"


def _range(figures: list[float]) -> str:
    """From the least to the greatest, or the one figure that both are."""
    least, greatest = f"{min(figures):.1f}", f"{max(figures):.1f}"
    return least if least == greatest else f"{least} to {greatest}"


def repeats(file: str) -> str:
    """Passes that a benchmark's medians are of, in a word."""
    return {1: "one", 2: "two", 3: "three", 4: "four", 5: "five"}[record(file)["settings"]["plan"]["repeats"]]


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


def soak_growth(file: str) -> str:
    (line,) = (line for line in record(file)["summary"] if "growth" in line)
    return re.search(r"\+([\d.]+)%", line)[1] + "%"


MAKERS = (
    decoding, end_to_end, tau, machine, speed_table, identity, widest_gap, plain_with_itself, kv_overhead, resident,
    step, step_share, late_first_token, repeats, visual_context, attention_rows, soak_growth,
)  # fmt: skip
