"""specflash predict: what a draft would gain on this machine, before one is trained."""

import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import torch
import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.shared import ResultFile
from vllm_specflash.config import SpecFlashError
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.bench.console import announcer, wide_console
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.bench.engine import EngineFailed
from vllm_specflash.lab.bench.predict.measure import PredictOptions, measure_costs
from vllm_specflash.lab.bench.predict.report import prediction_plot, prediction_table, sentences
from vllm_specflash.lab.bench.prompts import load_tasks
from vllm_specflash.lab.bench.result import write_result
from vllm_specflash.lab.bench.targets import find_target
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.checkout import EXAMPLE_DATA
from vllm_specflash.train.provenance import provenance


@with_options(options=PredictOptions)
def run(
    options: PredictOptions,
    target: Annotated[str, typer.Argument(help="Demo target (scenes, sheets, smollm2), folder or hub id.")],
    prompts: Annotated[Path, typer.Option(help="jsonl of prompts like those that are served; default: the examples' chat.")] = EXAMPLE_DATA / "chat.jsonl",
    batch_size: Annotated[list[int], typer.Option(min=1, help="Requests at a time; may be repeated.")] = [1, 8, 32],
    draft: Annotated[str | None, typer.Option(help="A trained draft; its own cost, and with --data its own acceptance.")] = None,
    data: Annotated[list[Path], typer.Option(help="Answers from `specflash data`, to measure --draft's acceptance on.")] = [],
    held_out_share: Annotated[float, typer.Option(min=0, max=1, help="Share of the answers that training held out; 1: all.")] = 0.05,
    out: ResultFile = None,
    plot: Annotated[Path | None, typer.Option(help="SVG file for the plot.")] = None,
) -> None:
    console, began = wide_console(), time.monotonic()
    with one_sentence_errors():
        if data and draft is None:
            raise SpecFlashError("--data measures the acceptance of a draft: name it with --draft.")
        one, sizes = find_target(target, draft), sorted(set(batch_size))
        try:
            asked = [prompt for task in load_tasks(prompts).values() for prompt in task]
            depth = own = None
            with console.status("") as status:
                announce = announcer(console, status, began)
                if draft is not None:
                    announce("the draft's acceptance" if data else "the draft's shape")
                    depth, own = _of_draft(one.model, draft, data, held_out_share)
                costs, depth = measure_costs(one.model, draft, depth, asked, sizes, options, cache_root() / "logs", announce)
        except (EngineFailed, OSError) as error:
            raise SpecFlashError(str(error)) from error
    console.print(prediction_table(costs, depth, own))
    for line in sentences(costs, depth):
        console.print(line, highlight=False, markup=False)
    if plot is not None:
        plot.parent.mkdir(parents=True, exist_ok=True)
        plot.write_text(prediction_plot(costs, depth, own), encoding="utf-8")
        console.print(f"drawn: {plot}", highlight=False)
    if out is not None:
        record = {"provenance": provenance(), "device": device(), "options": asdict(options), "depth": depth, "own": own,
                  "costs": [asdict(cost) for cost in costs]}  # fmt: skip
        write_result(out, record)


def _of_draft(target: str, draft: str, data: list[Path], share: float) -> tuple[int, list[float] | None]:
    """K of a draft, and, where there are answers, the share of its chains accepted up to each position."""
    from vllm_specflash.config import SpecFlashOptions, find_draft
    from vllm_specflash.engine.speculative_config import load_draft_config

    config = load_draft_config(find_draft(SpecFlashOptions(model=draft), target))
    depth = config.semi_ar_width * config.num_rounds
    if not data:
        return depth, None
    from vllm_specflash.commands.report import print_skipped
    from vllm_specflash.train.dataset import AnswerSet, greedy_held_out
    from vllm_specflash.train.evaluate import evaluate_draft, read_both
    from vllm_specflash.train.families import takes_images
    from vllm_specflash.train.simulate import Acceptance

    (model, network), skipped = read_both(target, draft), Counter()
    answers = AnswerSet(greedy_held_out(model, data, share, 4096, skipped), model, 4096, skipped, None)
    lookup = SpecFlashOptions().looks_up(takes_images(model.config))
    results = evaluate_draft(network, model, answers, config.num_rounds, depth, lookup=lookup)
    print_skipped(skipped)
    return depth, sum(results.values(), start=Acceptance(0, 0, torch.zeros(depth))).per_position
