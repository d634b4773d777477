"""The short training behind every row of the table of sight: the same states of the demo target in the same order."""

import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.sight_states import Turn
from vllm_specflash.lab.demo.smollm2 import load_tokenizer
from vllm_specflash.train.batch import Batch, collate
from vllm_specflash.train.forward import answer_states
from vllm_specflash.train.loss import LossOptions, draft_losses
from vllm_specflash.train.vocabulary import choose_vocabulary, target_to_draft

WARMUP = 30


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    states: Path
    kinds: tuple[str, ...]
    steps: int
    batch: int
    width: int
    expansion: int
    vocabulary: int
    learning_rate: float
    seed: int


class Ground:
    """Turns to train on and to judge by, and the target's tables."""

    def __init__(self, setting: Setting):
        turns = [turn for kind in setting.kinds for turn in torch.load(setting.states / f"{kind}.pt", weights_only=False)]
        self.training = [turn for turn in turns if not turn.held_out]
        self.held_out = [turn for turn in turns if turn.held_out]
        self.embedding: Tensor = torch.load(setting.states / "embedding.pt")
        answers = (turn.sample.input_ids[turn.sample.answer_start :].tolist() for turn in self.training)
        self.d2t, self.coverage = choose_vocabulary(answers, setting.vocabulary)
        self.lm_head = self.embedding[self.d2t]
        self.t2d = target_to_draft(self.d2t, len(self.embedding))
        tokenizer = load_tokenizer()
        # The tokens that begin a name: after a space, and after a quotation mark.
        begins = {tokenizer(f" {name}").input_ids[0] for name in NAMES} | {tokenizer(f'"{name}').input_ids[1] for name in NAMES}
        self.names = torch.zeros(len(self.embedding), dtype=torch.bool)
        self.names[list(begins)] = True

    def batches(self, setting: Setting):
        """Batches of turns of like length, for ever, in an order that the seed decides."""
        rng = np.random.default_rng(setting.seed)
        lengths = np.array([len(turn.sample) for turn in self.training])
        while True:
            groups = np.array_split(rng.permutation(len(lengths)), max(1, len(lengths) // (8 * setting.batch)))
            batches = []
            for group in groups:
                group = group[np.argsort(lengths[group])]
                batches += [group[i : i + setting.batch] for i in range(0, len(group), setting.batch)]
            for index in rng.permutation(len(batches)):
                yield [self.training[i] for i in batches[index]]


def lay_out(turns: list[Turn], draft: SpecFlashDraft) -> tuple[Batch, Tensor, Tensor]:
    """A batch, its hidden states [B, L, D] and the visual embeddings of all its spans [rows, D]."""
    batch = collate([turn.sample for turn in turns], draft.config.pooling, draft.config.semi_ar_width)
    hidden = pad_sequence([turn.hidden for turn in turns], batch_first=True)
    return batch, hidden, torch.cat([turn.embeddings for turn in turns])


def new_draft(ground: Ground, setting: Setting, fields: dict) -> SpecFlashDraft:
    torch.manual_seed(setting.seed)
    draft = SpecFlashDraft(
        SpecFlashConfig(
            semi_ar_width=setting.width, head_expansion=setting.expansion, draft_vocab_size=len(ground.d2t),
            transition_rank=64, **fields,
        )
    )  # fmt: skip
    draft.d2t.copy_(ground.d2t)
    with torch.no_grad():
        rms = ground.embedding[:1024].float().pow(2).mean().sqrt()
        draft.fc.weight[:, : draft.config.hidden_size] /= rms
    return draft


def train(ground: Ground, setting: Setting, fields: dict, log: str) -> SpecFlashDraft:
    """A draft after `setting.steps` steps; cosine schedule, as `specflash train` has it."""
    draft = new_draft(ground, setting, fields)
    options, batches, began = LossOptions(), ground.batches(setting), time.monotonic()
    optimizer = torch.optim.AdamW(draft.parameters(), lr=setting.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    for step in range(setting.steps):
        decay = 0.5 * (1 + math.cos(math.pi * step / setting.steps))
        for group in optimizer.param_groups:
            group["lr"] = setting.learning_rate * min((step + 1) / WARMUP, decay)
        turns = next(batches)
        batch, hidden, visual = lay_out(turns, draft)
        width = options.noise * 512 / torch.tensor([len(turn.sample) for turn in turns])[:, None, None]
        noisy = hidden.float() + (torch.rand(hidden.shape) - 0.5) * width
        with torch.autocast("cpu", torch.bfloat16):
            predicted = answer_states(draft, batch, noisy, ground.embedding, visual)
            losses = draft_losses(draft, batch, predicted, hidden, ground.lm_head, ground.t2d, options)
        losses.total.backward()
        nn.utils.clip_grad_norm_(draft.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step + 1 == setting.steps:
            accuracy = " ".join(f"{share:.2f}" for share in losses.accuracy.tolist())
            print(f"{log}: step {step} loss {losses.total:.3f} accuracy {accuracy} {time.monotonic() - began:.0f} s", flush=True)
    return draft.eval()
