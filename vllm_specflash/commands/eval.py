"""specflash eval: acceptance of a draft over a target's greedy answers, simulated, and measured by serving."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from vllm_specflash.commands.report import print_acceptance, print_comparison, print_skipped
from vllm_specflash.config import MAX_SPECULATIVE_TOKENS, SpecFlashOptions
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.bench.option import DTYPES
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.train.allocator import keep_freed_memory
from vllm_specflash.train.answers import Answer
from vllm_specflash.train.dataset import AnswerSet, greedy_held_out
from vllm_specflash.train.evaluate import evaluate_draft, read_both
from vllm_specflash.train.families import takes_images
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.simulate import Acceptance


def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    draft: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the draft.")],
    data: Annotated[list[Path], typer.Option(help="Folder of answers from `specflash data`; may be repeated.")],
    rounds: Annotated[int | None, typer.Option(min=1, help="R, draft forwards per step; the checkpoint's by default.")] = None,
    chain_length: Annotated[int | None, typer.Option(min=1, help="Tokens per chain; R x K by default.")] = None,
    tree_nodes: Annotated[int | None, typer.Option(min=1, max=MAX_SPECULATIVE_TOKENS, help="Draft trees of so many nodes, not chains.")] = None,
    lookup: Annotated[bool | None, typer.Option(help="Also draft what the text has read before; as engines do where not given.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Most answers to evaluate.")] = None,
    held_out_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the answers that training held out; 1: all answers, where none was trained on.")
    ] = 0.05,
    max_length: Annotated[int, typer.Option(min=2, help="Longest prompt and answer together, in tokens.")] = 4096,
    features: Annotated[
        Path | None, typer.Option(help="Where `specflash data --features` kept the target's; computed anew without.")
    ] = None,
    measured: Annotated[bool, typer.Option(help="Also serve the same prompts with vLLM, and compare.")] = False,
    dtype: Annotated[Literal[DTYPES], typer.Option(help="vLLM's dtype where it serves.")] = "bfloat16",
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
) -> None:
    keep_freed_memory()
    skipped: Counter = Counter()
    with one_sentence_errors():
        model, network = read_both(target, draft)
        answers = greedy_held_out(model, data, held_out_share, max_length, skipped)[:limit]
        cache = None if features is None else FeatureCache(features, model.text_config.hidden_size, model.name, model.layers)
    config = network.config
    if chain_length is not None and rounds is None:
        rounds = -(-chain_length // config.semi_ar_width)
    rounds = rounds or config.num_rounds
    chain_length = min(chain_length or rounds * config.semi_ar_width, rounds * config.semi_ar_width)
    lookup = SpecFlashOptions(lookup=lookup).looks_up(takes_images(model.config))
    usable = AnswerSet(answers, model, max_length, skipped, cache)
    shape = f"trees of {tree_nodes}" if tree_nodes else f"chains of {chain_length}"
    simulated = evaluate_draft(network, model, usable, rounds, chain_length, tree_nodes, lookup)
    print_skipped(skipped)
    print_acceptance(simulated, f"{draft}: simulated, greedy, {shape}")
    facts = {
        "target": model.name, "draft": draft, "rounds": rounds, "chain_length": chain_length, "tree_nodes": tree_nodes, "lookup": lookup,
        "answers": len(answers), "simulated": _figures(simulated),
    }  # fmt: skip
    if measured:
        answers = [answer for index, answer in enumerate(answers) if usable[index] is not None]
        positions = model.text_config.max_position_embeddings
        # vLLM wants the memory.
        del model, network, usable
        torch.cuda.empty_cache()
        from vllm_specflash.lab.bench.acceptance import uncut_drafts

        drafts = uncut_drafts(draft, chain_length, tree_nodes, lookup)
        served = _serve(target, drafts, answers, min(max_length, positions), dtype)
        print_acceptance(served.acceptance, f"{draft}: measured, greedy, {shape}")
        print_comparison(simulated, served)
        facts |= {"measured": _figures(served.acceptance), "identical": served.identical, "served": served.answers}
    if out is not None:
        write_provenance(out, **facts)


def _serve(target: str, drafts: dict, answers: list[Answer], max_model_len: int, dtype: str):
    from vllm_specflash.lab.bench.acceptance import measure_acceptance
    from vllm_specflash.lab.bench.engine import EngineFailed

    try:
        return measure_acceptance(target, drafts, answers, max_model_len, cache_root() / "logs" / "eval.log", dtype)
    except EngineFailed as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from None


def _figures(results: dict[str, Acceptance]) -> dict:
    return {
        task: {"tau": r.tau, "forwards": r.steps, "accepted_at": r.per_position}
        | ({"calibration_error": r.calibration_error} if r.decided.any() else {})
        for task, r in results.items()
    }
