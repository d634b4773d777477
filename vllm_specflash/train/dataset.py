"""Answers as training items, with features from the cache or, without one, from the target batch by batch."""

import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.batch import Batch, collate
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.skipped import skip
from vllm_specflash.train.target import Sample, Target


@dataclass
class Features:
    """A batch with what the target says about it: hidden [B, L, D]."""

    samples: list[Sample]
    batch: Batch
    hidden: Tensor

    def to(self, device: torch.device) -> "Features":
        return Features(self.samples, self.batch.to(device), self.hidden.to(device))


def is_held_out(answer_id: str, share: float) -> bool:
    """Decided by the id alone: the split survives new data and other folders.

    Salted, since what is answered by sampling is decided by the id too.
    """
    return zlib.crc32(f"held out: {answer_id}".encode()) % 1000 < 1000 * share


def is_one_in(answer_id: str, number: int) -> bool:
    """Whether an answer is among a share of one in `number`, decided by its id; one in four are also among one in two."""
    return zlib.crc32(f"one in: {answer_id}".encode()) % number == 0


def load_answers(folders: list[AnswerFolder], target: Target, max_length: int, skipped: Counter) -> list[Answer]:
    """Answers that can be trained on; the others are left out and their reason counted.

    What only reading an image can tell (a corrupt one) is counted later, when the image is read.

    Raises:
        SpecFlashError: nothing is left.
    """
    kept: dict[str, Answer] = {}
    limit = target.lm_head.shape[0]
    for answer in (answer for folder in folders for answer in folder):
        name = answer.prompt.id
        if len(answer.token_ids) < 2:
            skip(skipped, name, "the answer has fewer than two tokens")
        elif len(answer.token_ids) > max_length:
            skip(skipped, name, f"prompt and answer are longer than {max_length} tokens")
        elif max(answer.token_ids) >= limit:
            skip(skipped, name, "the answer has tokens that the target does not know")
        elif name in kept:
            # Features are kept by id: with two answers of one id, one would be trained on the other's.
            skip(skipped, name, "another answer has the same id")
        else:
            kept[name] = answer
    if not kept:
        names = ", ".join(str(folder.folder) for folder in folders)
        raise SpecFlashError(f"There are no usable answers in {names}: generate some with `specflash data`.")
    return list(kept.values())


def greedy_held_out(target: Target, folders: list[Path], share: float, max_length: int, skipped: Counter) -> list[Answer]:
    """The answers that a draft's acceptance is measured on. Raises SpecFlashError where there are none."""
    answers = load_answers([AnswerFolder(folder) for folder in folders], target, max_length, skipped)
    kept = [answer for answer in answers if answer.temperature == 0 and is_held_out(answer.prompt.id, share)]
    if not kept:
        raise SpecFlashError(
            f"None of the {len(answers)} answers is greedy and held out: raise --held-out-share, or generate more."
        )
    return kept


class AnswerSet(torch.utils.data.Dataset):
    """Samples by index; None stands for one that could not be read, with its reason counted once in `skipped`."""

    def __init__(
        self,
        answers: list[Answer],
        target: Target,
        max_length: int,
        skipped: Counter,
        cache: FeatureCache | None,
    ):
        self.answers, self.target, self.max_length = answers, target, max_length
        self.skipped, self.cache = skipped, cache
        self._unusable: set[str] = set()

    def __len__(self) -> int:
        return len(self.answers)

    def __getitem__(self, index: int) -> Sample | None:
        answer = self.answers[index]
        if self.cache is not None and self.cache.holds(answer):
            return self.cache.samples[answer.prompt.id]
        try:
            return self.target.sample(answer, self.max_length)
        except (ValueError, OSError) as error:
            # Every epoch asks again.
            if answer.prompt.id not in self._unusable:
                self._unusable.add(answer.prompt.id)
                skip(self.skipped, answer.prompt.id, error)
            return None

    @property
    def lengths(self) -> list[int]:
        """Tokens to bucket by: of the sequence where it is known, else of the answer."""
        known = self.cache.samples if self.cache is not None else {}
        return [len(known[a.prompt.id]) if a.prompt.id in known else len(a.token_ids) for a in self.answers]

    def fill_cache(self, batch_size: int) -> None:
        """One pass of the target over everything that the cache does not hold; drops what cannot be read."""
        todo = [i for i, answer in enumerate(self.answers) if not self.cache.holds(answer)]
        todo.sort(key=lambda i: len(self.answers[i].token_ids))
        for start in track(range(0, len(todo), batch_size), description="features of the target"):
            samples = [self[i] for i in todo[start : start + batch_size]]
            samples = [sample for sample in samples if sample is not None]
            if samples:
                # The folder may keep more layers than this training wants.
                self.cache.append(samples, self.target.hidden_states(samples, self.cache.kept))
        self.answers = [answer for answer in self.answers if self.cache.holds(answer)]

    def features(self, samples: list[Sample], pooling: Pooling | None, width: int) -> Features:
        """A batch of samples with their hidden states."""
        if self.cache is not None and all(self.cache.samples.get(sample.id) is sample for sample in samples):
            hidden = pad_sequence([self.cache.hidden(sample.id) for sample in samples], batch_first=True)
        else:
            hidden = self.target.hidden_states(samples)
        return Features(samples, collate(samples, pooling, width), hidden)
