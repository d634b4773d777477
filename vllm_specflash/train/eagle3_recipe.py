"""Training of the EAGLE-3 peer on the answers that a SpecFLASH draft is trained on, judged on the same held-out ones."""

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.checkpoints import refuse_other_settings
from vllm_specflash.train.dataset import AnswerSet, is_held_out, load_answers
from vllm_specflash.train.distillation import choose_candidates, distil
from vllm_specflash.train.eagle3 import Eagle3Draft
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.option import option
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.shape import layers_of
from vllm_specflash.train.simulate import Acceptance, walk
from vllm_specflash.train.target import Target
from vllm_specflash.train.trainer import EpochSampler
from vllm_specflash.train.vocabulary import choose_vocabulary


@dataclass(frozen=True)
class Eagle3Options:
    """An EAGLE-3 draft and its training."""

    layers: str = option("", "Layers of the target that it sees; empty: as EAGLE-3 chooses them.")
    draft_vocab_size: int = option(8192, "Tokens it can propose.", min=1)
    steps_ahead: int = option(4, "Own steps that each position is trained on.", min=1)
    max_steps: int = option(1000, "Optimiser steps.", min=1)
    batch_size: int = option(8, "Answers per step.", min=1)
    learning_rate: float = option(6e-4, "Peak of AdamW's learning rate; then a cosine.", min=0)
    warmup_steps: int = option(50, "Steps to the peak.", min=0)
    step_decay: float = option(0.8, "The s-th step ahead weighs this to the power s.", min=0)
    top: int = option(8, "As of `specflash train`.", min=1)
    negatives: int = option(1024, "As of `specflash train`.", min=0)
    max_length: int = option(4096, "Longest prompt and answer together, in tokens.", min=2)
    held_out_share: float = option(0.05, "Share of the answers kept for evaluation.", min=0, max=1)
    held_out_limit: int = option(64, "Most of them that are evaluated.", min=1)
    save_every: int = option(100, "Steps between the states that an interrupted run goes on from.", min=1)
    seed: int = option(0, "Seed of everything random.", min=0, max=2**32 - 1)


def train_eagle3(target_path: str, data: list[Path], features: Path, out: Path, options: Eagle3Options) -> dict[str, Acceptance]:
    """Train, write the checkpoint to `out`, and return the simulated acceptance of its chains per task.

    Features are computed once and kept in `features`. Interrupted, the same command goes on from the last state it saved.

    Raises:
        SpecFlashError: the target is neither a Llama nor a LLaVA on one, the warm-up is longer than the training, or there is
            nothing to train on.
    """
    if options.warmup_steps > options.max_steps:
        raise SpecFlashError(f"--warmup-steps {options.warmup_steps} are more than --max-steps {options.max_steps}: lower the former.")
    target = Target(target_path)
    if target.config.model_type not in ("llama", "llava") or target.text_config.model_type != "llama":
        raise SpecFlashError(f"An EAGLE-3 peer is made for Llama targets and LLaVA targets on one, and {target.name} is another kind.")
    depth = target.text_config.num_hidden_layers
    # vLLM's own choice where a checkpoint names none.
    target.layers = layers_of(options.layers, depth, "--layers") or [2, depth // 2, depth - 3]
    skipped: Counter = Counter()
    answers = load_answers([AnswerFolder(folder) for folder in data], target, options.max_length, skipped)
    parts = [[a for a in answers if is_held_out(a.prompt.id, options.held_out_share) == held] for held in (False, True)]
    parts[1] = [a for a in parts[1] if a.temperature == 0][: options.held_out_limit]
    if not all(parts):
        raise SpecFlashError(
            f"Of {len(answers)} answers {len(parts[0])} are for training and {len(parts[1])} greedy ones are held out for "
            "evaluation: both must be some, so generate more answers or change --held-out-share."
        )
    cache = FeatureCache(features, target.text_config.hidden_size, target.name, target.layers)
    training, held_out = (AnswerSet(part, target, options.max_length, skipped, cache) for part in parts)
    for answer_set in (training, held_out):
        answer_set.fill_cache(options.batch_size)
    torch.manual_seed(options.seed)
    size = min(options.draft_vocab_size, len(target.lm_head))
    d2t, coverage = choose_vocabulary((answer.token_ids for answer in parts[0]), size)
    draft = Eagle3Draft(target.text_config, target.layers, d2t)
    lm_head, embedding = target.lm_head[d2t], target.embedding.float()
    out.mkdir(parents=True, exist_ok=True)
    digests = [AnswerFolder(folder).digest() for folder in data]
    facts = {**asdict(options), "target": target.name, "data_sha256": digests, "layers": target.layers}
    _optimise(draft, training, embedding, lm_head, options, out / "training.pt", facts)
    results = judge(draft, held_out, embedding, lm_head.float(), options.steps_ahead + 1)
    draft.save(out, lm_head)
    write_provenance(
        out / "provenance.json", target=target.name, answers=len(parts[0]), vocabulary_coverage=coverage,
        data_sha256=digests, options=asdict(options),
        parameters=sum(p.numel() for p in draft.parameters()),
        held_out={task: {"tau": r.tau, "forwards": r.steps, "accepted_at": r.per_position} for task, r in results.items()},
    )  # fmt: skip
    return results


def _optimise(
    draft: Eagle3Draft, answers: AnswerSet, embedding: Tensor, lm_head: Tensor, options: Eagle3Options, state: Path, facts: dict
):
    optimiser = torch.optim.AdamW(draft.parameters(), options.learning_rate, (0.9, 0.95), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, options.learning_rate, options.max_steps, pct_start=options.warmup_steps / options.max_steps
    )
    done = 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        refuse_other_settings(saved.get("facts", {}), facts, state.parent)
        draft.load_state_dict(saved["draft"])
        optimiser.load_state_dict(saved["optimiser"])
        schedule.load_state_dict(saved["schedule"])
        done = saved["done"]
    sampler, order = EpochSampler(options.batch_size, answers.lengths, options.seed + 1), []
    per_epoch = -(-len(answers) // options.batch_size)
    for step in range(options.max_steps):
        if step % per_epoch == 0:
            sampler.set_epoch(step // per_epoch)
            order = list(sampler)
        if step < done:
            continue
        first = step % per_epoch * options.batch_size
        samples = [answers[i] for i in order[first : first + options.batch_size]]
        # The candidates are drawn anew in every step, and the same ones by a run that goes on.
        torch.manual_seed(options.seed + step)
        with torch.autocast("cpu", torch.bfloat16):
            loss = _loss(draft, answers, samples, embedding, lm_head, options)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        if (step + 1) % options.save_every == 0:
            parts = {"draft": draft, "optimiser": optimiser, "schedule": schedule}
            torch.save({name: part.state_dict() for name, part in parts.items()} | {"done": step + 1, "facts": facts}, state.with_suffix(".part"))
            os.replace(state.with_suffix(".part"), state)
            print(f"step {step + 1}: loss {loss.item():.3f}", flush=True)


def _loss(draft: Eagle3Draft, answers: AnswerSet, samples: list, embedding: Tensor, lm_head: Tensor, options: Eagle3Options) -> Tensor:
    """Cross-entropy against the target's distributions at every step ahead, as of `specflash train`."""
    size = embedding.shape[1]
    features = answers.features(samples, Pooling(1), options.steps_ahead)
    batch, hidden = features.batch, features.hidden
    rows, given = batch.answer_positions()
    states = draft.taught(hidden[..., size:].float(), batch.input_ids, embedding, rows, options.steps_ahead)[given]
    flat, where = hidden[..., :size].flatten(0, 1), batch.targets()
    decay = options.step_decay ** torch.arange(options.steps_ahead)
    weights = batch.valid / batch.valid.sum(0).clamp(min=1) * (decay / decay.sum())
    chosen, bias = choose_candidates(flat[where.unique()], lm_head, options.top, options.negatives)
    return distil(states, flat, where, None, weights, lm_head[chosen], bias)[0]


@torch.no_grad()
def judge(draft: Eagle3Draft, answers: AnswerSet, embedding: Tensor, lm_head: Tensor, length: int) -> dict[str, Acceptance]:
    """Simulated acceptance of chains of `length` tokens, per task."""
    results: dict[str, Acceptance] = {}
    for index in range(len(answers)):
        sample = answers[index]
        if sample is None or not sample.greedy:
            continue
        features = answers.features([sample], Pooling(1), length)
        hidden = features.hidden[..., embedding.shape[1] :].float()
        rows, _ = features.batch.answer_positions()
        (chains,) = draft.chains(hidden, features.batch.input_ids, embedding, lm_head, rows, length)
        acceptance = walk(chains, sample.input_ids[sample.answer_start :])
        results[sample.task] = results[sample.task] + acceptance if sample.task in results else acceptance
    return results
