"""From folders of answers to a draft checkpoint: what `specflash train` does, step by step."""

from collections import Counter
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import TrainingArguments

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train.allocator import keep_freed_memory
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.checkpoints import PROVENANCE, CheckpointProvenance, drop_torn_checkpoints, last_checkpoint
from vllm_specflash.train.dataset import AnswerSet, is_held_out, is_one_in, load_answers
from vllm_specflash.train.evaluate import evaluate_draft
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.option import option
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.shape import DraftOptions, layers_of, new_draft, read_draft, with_feed_forward, with_layers, with_selector, with_vocabulary
from vllm_specflash.train.simulate import Acceptance
from vllm_specflash.train.target import Target
from vllm_specflash.train.trainer import SpecFlashTrainer, StopFile, TeacherForcing
from vllm_specflash.train.vocabulary import choose_vocabulary

# Those of transformers' schedules that need no settings of their own.
SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "inverse_sqrt")


@dataclass(frozen=True)
class RecipeOptions:
    """How long, how fast, and on what."""

    epochs: float = option(4.0, "Passes over the answers.", min=0)
    max_steps: int = option(0, "Optimiser steps in place of epochs; 0: epochs.", min=0)
    batch_size: int = option(8, "Answers per device and forward, bucketed by length.", min=1)
    accumulation: int = option(1, "Forwards per optimiser step.", min=1)
    learning_rate: float = option(6e-4, "Peak of AdamW's learning rate.", min=0)
    schedule: str = option("cosine", "transformers' name of the schedule after warm-up.", choices=SCHEDULES)
    warmup_steps: int = option(100, "Steps to the peak.", min=0)
    weight_decay: float = option(0.01, "AdamW's weight decay.", min=0)
    max_grad_norm: float = option(1.0, "Gradients are scaled down to this norm.", min=0)
    max_length: int = option(4096, "Longest prompt and answer together, in tokens.", min=2)
    one_in: int = option(1, "Train on one in so many of the answers, chosen by their ids; 1: all.", min=1)
    held_out_share: float = option(0.05, "Share of the answers kept for evaluation.", min=0, max=1)
    held_out_limit: int = option(64, "Most held-out answers evaluated during training.", min=1)
    evaluate_every: int = option(250, "Steps between evaluations and checkpoints.", min=1)
    log_every: int = option(25, "Steps that each logged loss is the mean of.", min=1)
    features: Path | None = option(None, "Keep the target's features here, on disk.")
    tensorboard: bool = option(False, "Log for TensorBoard into <out>/checkpoints/runs.")
    start_from: Path | None = option(None, "Draft to continue from; its shape is kept.")
    start_vocab_size: int = option(0, "With --start-from: first choose its vocabulary anew; 0: keep it.", min=0)
    start_selector_width: int = option(0, "With --start-from: give it a selector so wide; 0: keep what it has.", min=0)
    start_feed_forward: int = option(0, "With --start-from: give it a feed-forward block so wide; 0: keep what it has.", min=0)
    start_target_layers: str = option("", "With --start-from: let it see these layers' inputs too, by commas; empty: keep what it sees.")
    bf16: bool = option(True, "Matrix products in bfloat16, parameters in float32.")
    seed: int = option(0, "Seed of everything random.", min=0, max=2**32 - 1)


def train_draft(
    target_path: str,
    data: list[Path],
    out: Path,
    shape: DraftOptions,
    loss: LossOptions,
    recipe: RecipeOptions,
) -> tuple[dict[str, Acceptance], Counter]:
    """Train, save to `out`, and return the simulated acceptance per task and the skipped answers by reason.

    Started again with the same arguments after an interruption, it continues from the last complete checkpoint, with the
    same batches and the same randomness: the losses are those of an uninterrupted run.

    Raises:
        SpecFlashError: settings that contradict each other, nothing to train on, or a folder with another training in it.
    """
    if recipe.start_vocab_size and recipe.start_from is None:
        raise SpecFlashError(
            "--start-vocab-size reduces the vocabulary of the draft that --start-from names: give both, or set a new "
            "draft's vocabulary with --draft-vocab-size."
        )
    for part in ("selector_width", "feed_forward", "target_layers"):
        if getattr(recipe, f"start_{part}") and recipe.start_from is None:
            flag = part.replace("_", "-")
            raise SpecFlashError(f"--start-{flag} goes with --start-from: a new draft's is --{flag}.")
    if recipe.tensorboard and find_spec("tensorboard") is None:
        raise SpecFlashError("--tensorboard needs the package of that name: pip install tensorboard, or leave it out.")
    keep_freed_memory()
    torch.manual_seed(recipe.seed)
    skipped: Counter = Counter()
    checkpoints = out / "checkpoints"
    args = TrainingArguments(
        output_dir=str(checkpoints),
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.accumulation,
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule,
        warmup_steps=recipe.warmup_steps,
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=recipe.max_grad_norm,
        bf16=recipe.bf16,
        use_cpu=not torch.cuda.is_available(),
        eval_strategy="steps",
        eval_steps=recipe.evaluate_every,
        save_steps=recipe.evaluate_every,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_tau",
        greater_is_better=True,
        logging_steps=recipe.log_every,
        report_to=["tensorboard"] if recipe.tensorboard else [],
        remove_unused_columns=False,
        seed=recipe.seed,
        disable_tqdm=True,
    )
    target = Target(target_path).to(args.device)
    # Without torchrun transformers would spread batches over all GPUs of one process, and the target's tables are on the first alone.
    args._n_gpu = min(args.n_gpu, 1)
    folders = [AnswerFolder(folder) for folder in data]
    answers = load_answers(folders, target, recipe.max_length, skipped)
    held_out = [a for a in answers if is_held_out(a.prompt.id, recipe.held_out_share)]
    training = [a for a in answers if not is_held_out(a.prompt.id, recipe.held_out_share) and is_one_in(a.prompt.id, recipe.one_in)]
    held_out = [a for a in held_out if a.temperature == 0][: recipe.held_out_limit]
    if not training or not held_out:
        raise SpecFlashError(
            f"Of {len(answers)} answers {len(training)} are for training and {len(held_out)} greedy ones are held out for "
            "evaluation: both must be some, so generate more answers or change --held-out-share."
        )
    if recipe.start_from is not None:
        draft, coverage = read_draft(recipe.start_from, target), None
        if recipe.start_vocab_size > len(target.lm_head):
            raise SpecFlashError(f"--start-vocab-size {recipe.start_vocab_size} is more than the {len(target.lm_head)} tokens of {target.name}.")
        if recipe.start_vocab_size:
            d2t, coverage = choose_vocabulary((answer.token_ids for answer in training), recipe.start_vocab_size)
            draft = with_vocabulary(draft, d2t)
        if recipe.start_selector_width:
            draft = with_selector(draft, recipe.start_selector_width)
        if recipe.start_feed_forward:
            draft = with_feed_forward(draft, recipe.start_feed_forward)
        if layers := layers_of(recipe.start_target_layers, target.text_config.num_hidden_layers, "--start-target-layers"):
            draft = with_layers(draft, layers)
        draft.config.target_name = target.name
    else:
        draft, coverage = new_draft(target, shape, training)
    target.layers = draft.config.trained_layers
    # With several processes, the first fills the cache and the others read it.
    with args.main_process_first(desc="features"):
        cache = None
        if recipe.features is not None:
            cache = FeatureCache(recipe.features, target.text_config.hidden_size, target.name, target.layers)
        sets = [AnswerSet(part, target, recipe.max_length, skipped, cache) for part in (training, held_out)]
        if cache is not None:
            for answer_set in sets:
                answer_set.fill_cache(recipe.batch_size)
    facts = {
        "target": target.name, "answers": len(training), "answer_tokens": sum(len(a.token_ids) for a in training),
        "vocabulary_coverage": coverage, "data_sha256": [folder.digest() for folder in folders],
        "shape": {name: getattr(draft.config, name) for name in asdict(shape)},
        "loss": asdict(loss), "recipe": asdict(recipe),
    }  # fmt: skip
    forcing = TeacherForcing(draft.to(args.device), target, loss)
    trainer = SpecFlashTrainer(forcing, target, args, *sets)
    trainer.add_callback(StopFile)
    trainer.add_callback(CheckpointProvenance(facts))
    with args.main_process_first(desc="checkpoints"):
        if trainer.is_world_process_zero():
            drop_torn_checkpoints(checkpoints)
        resume_from = last_checkpoint(checkpoints, facts)
    trainer.train(resume_from_checkpoint=resume_from)
    results = evaluate_draft(draft, target, sets[1])
    if trainer.is_world_process_zero():
        trainer.save_state()
        draft.to(torch.bfloat16).save_pretrained(out)
        write_provenance(
            out / PROVENANCE, **facts, skipped=dict(skipped), steps=trainer.state.global_step,
            held_out={task: {"tau": r.tau, "forwards": r.steps, "accepted_at": r.per_position} for task, r in results.items()},
        )  # fmt: skip
    return results, skipped
