"""Parts of the pages that come from the code and from measured results, in place of `<!-- generated: NAME -->`."""

import dataclasses
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median

from vllm_specflash import compat
from vllm_specflash.cli import COMMANDS
from vllm_specflash.config import SpecFlashOptions
from vllm_specflash.engine.stats import ACCEPTANCE_HELP, ACCEPTANCE_LENGTH, DraftStats

RESULTS = Path(__file__).resolve().parents[1] / "results"
SPEED_FILES = {"bench-cpu.json": ("scenes", "clips", "sheets", "chat", "everyday")}


def on_page_markdown(markdown: str, **_) -> str:
    """mkdocs calls this for every page.

    Raises:
        KeyError: a page asks for something that no function here makes.
    """
    return re.sub(r"<!-- generated: (\w+) -->", lambda found: GENERATED[found[1]](), markdown)


def options() -> str:
    """Every key of `speculative_config`."""
    rows = (
        f"| `{field.name}` | {_type(field.type)} | `{json.dumps(field.default)}` | {field.metadata['description']} |"
        for field in dataclasses.fields(SpecFlashOptions)
    )
    return _table("| option | type | default | |", rows)


def commands() -> str:
    return _table("| command | |", (f"| `specflash {name}` | {text} |" for name, text in COMMANDS.items()))


def metrics() -> str:
    """What the plugin adds to a server's /metrics."""
    told = {f"{metric}_total": description for _, metric, description in DraftStats.described()}
    told[ACCEPTANCE_LENGTH] = ACCEPTANCE_HELP
    return _table("| metric | |", (f"| `{name}` | {description} |" for name, description in told.items()))


def supported() -> str:
    return compat.SUPPORTED


def speed() -> str:
    """Speed-ups as `specflash bench` recorded them: medians, and from the least to the greatest repeat."""
    header = "| task | batch | method | decoding | end to end | tokens per step | same answers |"
    return _table(header, map(_speed_row, _measured()))


def first_token() -> str:
    """Medians of the time from a request's arrival to its first token, all prompts and repeats, in milliseconds."""
    seconds: dict[tuple, list[float]] = {}
    for file, tasks in SPEED_FILES.items():
        for one in json.loads((RESULTS / file).read_text(encoding="utf-8"))["passes"]:
            if one["task"] in tasks:
                found = seconds.setdefault((one["task"], one["batch_size"], one["method"]), [])
                found += [output["first_seconds"] for output in one["outputs"]]
    rows = []
    for (task, batch, method), found in seconds.items():
        plain = median(seconds[task, batch, "plain"])
        rows.append(f"| {task} | {batch} | {method} | {1e3 * median(found):.0f} | {median(found) / plain:.2f}x |")
    return _table("| task | batch | method | ms to the first token | of plain vLLM's |", rows)


def step() -> str:
    """Where a decoding step's time went, in milliseconds."""
    rows = [row for file in SPEED_FILES for row in _summary(file)]
    parts = list(rows[0]["step"])
    lines = (
        f"| {row['task']} | {row['batch_size']} | {row['method']} | "
        + " | ".join(f"{row['step'][part]:.2f}" for part in parts)
        + f" | {row.get('verify_ms', 0.0):.2f} |"
        for row in rows
    )
    return _table("| task | batch | method | " + " | ".join(parts) + " | of it verifying |", lines)


def tree_attention() -> str:
    """One layer's attention over trees beside chains, by context."""
    found = json.loads((RESULTS / "tree-attention.json").read_text(encoding="utf-8"))["figures"]
    rows = (
        f"| {figure['requests']} | {figure['context']} | {figure['side_paths']} | {figure['chain_us']:.0f} | "
        f"{figure['tree_us']:.0f} | {figure['tree_us'] / figure['chain_us']:.2f}x |"
        for figure in found
    )
    return _table("| requests | context | side paths | chain, us | tree, us | tree of chain |", rows)


def identity() -> str:
    """The result of `specflash identity` in one sentence."""
    record = json.loads((RESULTS / "identity-float32.json").read_text(encoding="utf-8"))
    agreement = record["results"]["scenes"]["agreement"]
    return (
        f"In {record['options']['dtype']}, {agreement['identical']} of {agreement['compared']} greedy answers were "
        "identical to plain vLLM's."
    )


def served() -> str:
    """Speed-ups that clients of a server saw, beside the offline ones, as `specflash served` recorded them."""
    record = json.loads((RESULTS / "served-cpu.json").read_text(encoding="utf-8"))
    rows = (
        f"| {row['task']} | {row['clients']} | {_spread(row['decode_speed_up'])} | {row['offline_decode']:.2f}x | "
        f"{_spread(row['end_to_end_speed_up'])} | {row['offline_end_to_end']:.2f}x | {row['first_ms']:.0f} | "
        f"{row['plain_first_ms']:.0f} |"
        for row in record["rows"]
    )
    header = "| task | clients | decoding | offline | end to end | offline | ms to the first token | plain vLLM's |"
    return _table(header, rows)


def soak() -> str:
    """The result of `specflash soak`, line by line."""
    record = json.loads((RESULTS / "soak-cpu.json").read_text(encoding="utf-8"))
    return "\n".join(f"- {line}" for line in record["summary"])


def device() -> str:
    return _machine("bench-cpu.json")


def soaked_on() -> str:
    return _machine("soak-cpu.json")


MAKERS = (
    options, commands, metrics, supported, speed, first_token, step, tree_attention, identity, served, soak, device, soaked_on,
)  # fmt: skip
GENERATED: dict[str, Callable[[], str]] = {made.__name__: made for made in MAKERS}


def _machine(file: str) -> str:
    record = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    machine, versions = record["device"], record["provenance"]["versions"]
    return f"{machine['cores']} cores of an {machine['cpu']}, vLLM {versions['vllm']}"


def _summary(file: str) -> list[dict]:
    rows = json.loads((RESULTS / file).read_text(encoding="utf-8"))["summary"]
    return [row for row in rows if row["task"] in SPEED_FILES[file]]


def _measured() -> Iterator[dict]:
    return (row for file in SPEED_FILES for row in _summary(file) if row["decode_speed_up"])


def _spread(found: dict) -> str:
    return f"{found['median']:.2f}x ({found['least']:.2f}-{found['greatest']:.2f})"


def _speed_row(row: dict) -> str:
    same = row["identical"].replace("/", " of ")
    return (
        f"| {row['task']} | {row['batch_size']} | {row['method']} | {_spread(row['decode_speed_up'])} | "
        f"{_spread(row['end_to_end_speed_up'])} | {row['acceptance_length']:.2f} | {same} |"
    )


def _type(annotation) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.replace("|", "or")


def _table(header: str, rows) -> str:
    columns = header.count("|") - 1
    return "\n".join([header, "|" + " --- |" * columns, *rows])
