"""Target features kept on disk (on request), so that many epochs cost one pass of the target."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train.target import Sample


class FeatureCache:
    """Samples and their hidden states [L, D] in one bfloat16 file, found by sample id.

    `hidden.bin` is appended to first and `index.jsonl` after it, so that whatever the index names is whole.
    """

    def __init__(self, folder: Path, hidden_size: int, target: str):
        self.folder, self.hidden_size = Path(folder), hidden_size
        self.folder.mkdir(parents=True, exist_ok=True)
        owner = self.folder / "target.txt"
        if owner.exists() and owner.read_text() != target:
            raise SpecFlashError(f"{folder} holds features of {owner.read_text()}, not of {target}: name another folder.")
        owner.write_text(target)
        self.samples: dict[str, Sample] = {}
        self._rows: dict[str, int] = {}
        self._next_row = 0
        if self._index.exists():
            self._drop_torn_line()
            with open(self._index, encoding="utf-8") as lines:
                for line in lines:
                    self._remember(json.loads(line))

    @property
    def _index(self) -> Path:
        return self.folder / "index.jsonl"

    @property
    def _hidden(self) -> Path:
        return self.folder / "hidden.bin"

    def _drop_torn_line(self) -> None:
        """Cut off a last line that was being written when the process was killed."""
        whole = self._index.read_bytes()
        if whole and not whole.endswith(b"\n"):
            os.truncate(self._index, whole.rfind(b"\n") + 1)

    def _remember(self, entry: dict) -> None:
        row = entry.pop("row")
        entry["input_ids"] = torch.tensor(entry["input_ids"])
        sample = Sample(**entry, pixels={})
        self.samples[sample.id], self._rows[sample.id] = sample, row
        self._next_row = row + len(sample)

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self.samples

    def append(self, samples: list[Sample], hidden: Iterable[Tensor]) -> None:
        """Keep hidden states, [L, D] or longer each, of samples that are not in the cache yet."""
        lines = []
        row_bytes = 2 * self.hidden_size
        with open(self._hidden, "r+b" if self._hidden.exists() else "w+b") as data:
            data.seek(self._next_row * row_bytes)
            for sample, states in zip(samples, hidden, strict=True):
                states = states[: len(sample)].to(torch.bfloat16).contiguous().cpu()
                data.write(states.view(torch.int16).numpy().tobytes())
                entry = {
                    "id": sample.id, "task": sample.task, "input_ids": sample.input_ids.tolist(),
                    "answer_start": sample.answer_start, "spans": sample.spans, "greedy": sample.greedy,
                    "row": self._next_row,
                }  # fmt: skip
                lines.append(json.dumps(entry) + "\n")
                self._remember(entry)
        with open(self._index, "a", encoding="utf-8") as index:
            index.writelines(lines)

    def hidden(self, sample_id: str) -> Tensor:
        """[L, D] bfloat16 of one sample."""
        length, row = len(self.samples[sample_id]), self._rows[sample_id]
        data = np.memmap(self._hidden, np.int16, "r", 2 * row * self.hidden_size, (length, self.hidden_size))
        return torch.from_numpy(np.array(data)).view(torch.bfloat16)
