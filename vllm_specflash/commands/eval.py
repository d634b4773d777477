"""specflash eval: simulated acceptance of a draft over a target's greedy answers."""

from collections import Counter
from pathlib import Path
from typing import Annotated

import torch
import typer

from vllm_specflash.commands.report import print_acceptance, print_skipped
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.allocator import keep_freed_memory
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.dataset import AnswerSet, load_answers
from vllm_specflash.train.evaluate import evaluate_draft
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.target import Target


def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    draft: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the draft.")],
    data: Annotated[list[Path], typer.Option(help="Folder of answers from `specflash data`; may be repeated.")],
    rounds: Annotated[int | None, typer.Option(help="R, draft forwards per step; the checkpoint's by default.")] = None,
    chain_length: Annotated[int | None, typer.Option(help="Tokens per chain; R x K by default.")] = None,
    tree_nodes: Annotated[int | None, typer.Option(help="Draft trees of so many nodes, not chains.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most answers to evaluate.")] = None,
    max_length: Annotated[int, typer.Option(help="Longest prompt and answer together, in tokens.")] = 4096,
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
) -> None:
    keep_freed_memory()
    skipped: Counter = Counter()
    model = Target(target)
    network = SpecFlashDraft.from_pretrained(draft, dtype=torch.float32)
    answers = [a for folder in data for a in load_answers(AnswerFolder(folder), model, max_length, skipped)]
    answers = [answer for answer in answers if answer.temperature == 0][:limit]
    rounds = rounds or network.config.num_rounds
    results = evaluate_draft(network, model, AnswerSet(answers, model, max_length, skipped, None), rounds, chain_length, tree_nodes)
    print_skipped(skipped)
    print_acceptance(results, f"{draft}: simulated, greedy, R = {rounds}" + (f", trees of {tree_nodes}" if tree_nodes else ""))
    if out is not None:
        figures = {task: {"tau": r.tau, "forwards": r.steps, "accepted_at": r.per_position} for task, r in results.items()}
        write_provenance(out, target=model.name, draft=draft, rounds=rounds, chain_length=chain_length, tree_nodes=tree_nodes, figures=figures)
