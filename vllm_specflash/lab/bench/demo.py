"""`specflash demo`: held-out pictures, clips and chat prompts, plain vLLM and SpecFLASH taking turns."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from vllm_specflash.config import METHOD
from vllm_specflash.lab.bench.console import Announce, announcer
from vllm_specflash.lab.bench.document import Document
from vllm_specflash.lab.bench.method import PLAIN, Method, parse_method
from vllm_specflash.lab.bench.option import option
from vllm_specflash.lab.bench.prompts import load_task
from vllm_specflash.lab.bench.rows import rows
from vllm_specflash.lab.bench.schedule import Benchmark, Plan
from vllm_specflash.lab.bench.summary import Row
from vllm_specflash.lab.bench.tables import acceptance_table, speed_table
from vllm_specflash.lab.bench.targets import Target, of_demo
from vllm_specflash.lab.bench.thumbnail import thumbnail
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.showcase import DEMO_TARGETS, DemoTarget
from vllm_specflash.train.prompts import Prompt


@dataclass(frozen=True)
class DemoOptions:
    """How long the demo takes."""

    prompts: int = option(5, "Prompts per task.", min=1)
    repeats: int = option(2, "Passes of plain vLLM and of SpecFLASH, in turns.", min=1)
    max_tokens: int = option(112, "Cut answers here.", min=1)
    shown: int = option(2, "Answers shown per task.", min=0)
    max_seconds: float = option(75, "Begin no further repeat after measuring a target this long.", min=0)


def run_demo(
    options: DemoOptions, data: Path, console: Console, targets: Sequence[DemoTarget] = DEMO_TARGETS
) -> list[Row]:
    """Run every demo target, printing tables and answers as they come; returns the tables' rows.

    Raises:
        EngineFailed: an engine did not start.
        FileNotFoundError, ValueError: prompts or weights are missing.
    """
    began, found = time.monotonic(), []
    for demo in targets:
        with console.status("") as status:
            announce = announcer(console, status, began)
            announce(f"{demo.title}: assembling the target, the first time only")
            target = of_demo(demo)
            document = _measured(target, options, data, announce)
        shown = rows(document)
        console.print()
        console.print(Group(*_answers(document, target, data, options.shown, console)))
        console.print(speed_table(shown, f"{demo.title}: one request at a time, bfloat16"))
        console.print(acceptance_table(shown))
        found += shown
    return found


def _measured(target: Target, options: DemoOptions, data: Path, announce: Announce) -> Document:
    plan = Plan(repeats=options.repeats, prompts=options.prompts, max_tokens=options.max_tokens)
    methods = (Method(PLAIN, None), parse_method(METHOD, target.draft))
    document = Document(None, {"plan": asdict(plan), "target": asdict(target)})
    Benchmark(plan, methods, (1,), target, document, announce, data, options.max_seconds).run(cache_root() / "logs")
    return document


def _answers(document: Document, target: Target, data: Path, count: int, console: Console) -> Iterator[RenderableType]:
    for task in target.tasks:
        passes = document.passes(target.name, task, 1)
        plain, ours = (_texts(passes.get(method, [])) for method in (PLAIN, METHOD))
        shown = [prompt for prompt in load_task(task, data) if prompt.id in ours and prompt.id in plain][:count]
        for prompt in shown:
            yield _card(prompt, plain[prompt.id], ours[prompt.id], console)


def _texts(passes: list[dict]) -> dict[str, str]:
    return {output["prompt_id"]: output["text"].strip() for output in passes[0]["outputs"]} if passes else {}


def _card(prompt: Prompt, plain: str, ours: str, console: Console) -> Panel:
    parts: list[RenderableType] = []
    if prompt.image_paths and console.color_system in ("256", "truecolor"):
        parts.append(Columns([thumbnail(path, 24 if len(prompt.image_paths) == 1 else 12) for path in prompt.image_paths]))
    parts.append(Text(_question(prompt), style="italic"))
    if plain == ours:
        parts.append(Text.assemble(("both: ", "bold green"), ours))
    else:
        parts += [Text.assemble(("SpecFLASH: ", "bold green"), ours), Text.assemble(("plain vLLM: ", "bold"), plain)]
    return Panel(Group(*parts), title=f"{prompt.task} {prompt.id}", title_align="left")


def _question(prompt: Prompt) -> str:
    content = prompt.messages[-1]["content"]
    return content if isinstance(content, str) else " ".join(p["text"] for p in content if p["type"] == "text")
