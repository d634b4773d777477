"""Training of a draft: transformers' Trainer around the losses of loss.py, judged by simulated acceptance."""

from collections import Counter
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.dataset import AnswerSet, Features
from vllm_specflash.train.evaluate import evaluate_draft
from vllm_specflash.train.forward import answer_states
from vllm_specflash.train.loss import Losses, LossOptions, draft_losses
from vllm_specflash.train.target import Sample, Target
from vllm_specflash.train.vocabulary import target_to_draft


class EpochSampler(LengthGroupedSampler):
    """Buckets by length, in an order that the epoch's number alone decides: a resumed run goes on with the same batches."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int):
        super().__init__(batch_size, lengths=lengths)
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self):
        self.generator = torch.Generator().manual_seed(self.seed + self.epoch)
        return super().__iter__()


class TeacherForcing(nn.Module):
    """The draft with the target's tables beside it (not as parameters): batch -> losses per offset."""

    def __init__(self, draft: SpecFlashDraft, target: Target, options: LossOptions):
        super().__init__()
        self.draft, self.options = draft, options
        lm_head = draft.draft_lm_head(target.lm_head)
        t2d = None if draft.config.draft_vocab_size is None else target_to_draft(draft.d2t, target.lm_head.shape[0])
        self._tables = (target.embedding, lm_head, t2d)

    def forward(self, features: Features) -> Losses:
        embedding, lm_head, t2d = self._tables
        batch, hidden = features.batch, features.hidden
        noisy = self._with_noise(hidden, features.samples) if self.training and self.options.noise else hidden
        predicted = answer_states(self.draft, batch, noisy, embedding)
        return draft_losses(self.draft, batch, predicted, hidden, lm_head, t2d, self.options)

    def _with_noise(self, hidden: Tensor, samples: list[Sample]) -> Tensor:
        """Uniform noise on the inputs, so that the draft bears with its own predictions in later rounds."""
        lengths = torch.tensor([len(sample) for sample in samples], device=hidden.device)
        width = (self.options.noise * 512 / lengths)[:, None, None].to(hidden.dtype)
        return hidden + (torch.rand_like(hidden) - 0.5) * width


class SpecFlashTrainer(Trainer):
    """Trainer over Features; `evaluate` is the simulated acceptance length on held-out greedy answers."""

    def __init__(self, forcing: TeacherForcing, target: Target, args: TrainingArguments, train: AnswerSet, held_out: AnswerSet):
        self.target, self.held_out = target, held_out
        self._sums: Counter = Counter()
        super().__init__(
            model=forcing, args=args, train_dataset=train, eval_dataset=held_out, data_collator=self._collate
        )

    def _collate(self, items: list[Sample | None]) -> dict[str, list[Sample]]:
        return {"samples": [item for item in items if item is not None]}

    def _get_train_sampler(self, train_dataset=None):
        return EpochSampler(self.args.train_batch_size, self.train_dataset.lengths, self.args.seed + 1)

    def compute_loss(self, model: nn.Module, inputs: dict, return_outputs: bool = False, num_items_in_batch=None):
        draft = self.accelerator.unwrap_model(model).draft
        config = draft.config
        if not inputs["samples"]:
            # None of the batch could be read. A loss of zero keeps the step count, and with it the schedule.
            return sum(parameter.sum() for parameter in draft.parameters()) * 0.0
        features = self.train_dataset.features(inputs["samples"], config.pooling, config.semi_ar_width)
        losses = model(features.to(self.args.device))
        for name in ("smooth_l1", "cross_entropy", "accuracy"):
            for offset, value in enumerate(getattr(losses, name).tolist(), 1):
                self._sums[f"{name}_{offset}"] += value
        self._sums["batches"] += 1
        return (losses.total, losses) if return_outputs else losses.total

    def log(self, logs: dict, *args, **kwargs) -> None:
        """Adds the means per offset since the last log."""
        if "loss" in logs and self._sums["batches"]:
            batches = self._sums.pop("batches")
            logs = {**logs, **{name: round(value / batches, 4) for name, value in self._sums.items()}}
            self._sums.clear()
        super().log(logs, *args, **kwargs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        draft = self.accelerator.unwrap_model(self.model).draft
        metrics = {}
        for task, result in evaluate_draft(draft, self.target, self.held_out, rounds=1).items():
            metrics[f"{metric_key_prefix}_tau_{task}"] = round(result.tau, 4)
        metrics[f"{metric_key_prefix}_tau"] = sum(metrics.values()) / max(len(metrics), 1)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class StopFile(TrainerCallback):
    """Saves and stops when a file named STOP appears in the output folder: a clean way out of a long run."""

    def on_step_end(self, args, state, control, **kwargs):
        if (Path(args.output_dir) / "STOP").exists():
            control.should_evaluate = control.should_save = control.should_training_stop = True
        return control
