"""What steps and drafts take on this machine: plain vLLM, then the same with an untrained draft that nothing cuts."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from types import SimpleNamespace

import torch

from vllm_specflash.config import METHOD
from vllm_specflash.lab.bench.console import Announce
from vllm_specflash.lab.bench.engine import Engine
from vllm_specflash.lab.bench.engine_setup import EngineSetup
from vllm_specflash.lab.bench.option import DTYPES, option
from vllm_specflash.lab.bench.predict.model import Costs
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.shape import DraftOptions, new_draft
from vllm_specflash.train.target import target_config, target_name


@dataclass(frozen=True)
class PredictOptions:
    """How it is measured."""

    max_tokens: int = option(48, "Answers' length while steps are timed.", min=2)
    dtype: str = option("bfloat16", "Of the target.", choices=DTYPES)
    max_model_len: int = option(2048, "Of the engines.", min=2)
    kv_cache_gib: float = option(1.0, "KV budget of the engines.", min=0.001)
    enforce_eager: bool = option(False, "Without compilation: for trying it out, never for figures.")


def untrained_draft(target: str, folder: Path) -> int:
    """Write a draft of the default shape for a target, its weights random; returns K, the tokens it drafts."""
    config, options = target_config(target), DraftOptions()
    text = config.get_text_config()
    # What a draft takes from its target, without the target's weights.
    stand_in = SimpleNamespace(
        config=config, text_config=text, name=target_name(target), lm_head=SimpleNamespace(shape=(text.vocab_size,)),
        embedding=torch.ones(1, text.hidden_size),
    )  # fmt: skip
    draft, _ = new_draft(stand_in, options, answers=[])
    draft.save_pretrained(folder)
    return options.semi_ar_width * options.num_rounds


def measure_costs(
    target: str, draft: str | None, depth: int | None, prompts: Sequence[Prompt], batches: Sequence[int], options: PredictOptions,
    logs: Path, announce: Announce,
) -> tuple[list[Costs], int]:
    """Costs at every batch size, and K.

    Args:
        draft: None for an untrained one of the default shape.
        depth: K of `draft`.

    Raises:
        EngineFailed: an engine did not start.
    """  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="vllm-specflash-") as scratch:
        if draft is None:
            announce("making an untrained draft of the default shape")
            draft, depth = scratch, untrained_draft(target, Path(scratch))
        uncut = {
            "method": METHOD, "model": draft, "tree": False, "lookup": False, "sizing": "longest", "min_confidence": 0.0, "num_speculative_tokens": depth,
        }  # fmt: skip
        announce("plain vLLM")
        plain = _steps(EngineSetup(target, None, **_shared(options, batches)), prompts, batches, options, logs / "predict-plain.log")
        announce("with a draft")
        drafting = _steps(EngineSetup(target, uncut, **_shared(options, batches)), prompts, batches, options, logs / "predict-draft.log")
    costs = [Costs(batch, plain[batch][0], *drafting[batch]) for batch in batches]
    return costs, depth


def _shared(options: PredictOptions, batches: Sequence[int]) -> dict:
    return {
        "dtype": options.dtype, "max_model_len": options.max_model_len, "max_num_seqs": max(batches),
        "kv_cache_gib": options.kv_cache_gib, "enforce_eager": options.enforce_eager,
    }  # fmt: skip


def _steps(
    setup: EngineSetup, prompts: Sequence[Prompt], batches: Sequence[int], options: PredictOptions, log: Path
) -> dict[int, tuple[float, float]]:
    """By batch size: seconds of a decoding step without drafting, and of drafting."""
    found = {}
    with Engine(setup, log) as engine:
        engine.result(engine.start())
        for batch in batches:
            asked = list(islice(cycle(prompts), batch))
            # Once for nothing: the first forwards of a shape are not typical.
            for _ in range(2):
                decode = engine.generate(asked, batch, options.max_tokens).steps.decode
            steps = max(decode.steps, 1)
            found[batch] = ((decode.wall_seconds - decode.draft_seconds) / steps, decode.draft_seconds / steps)
    return found
