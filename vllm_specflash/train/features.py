"""Target features kept on disk (on request), so that many epochs cost one pass of the target."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train.answers import Answer
from vllm_specflash.train.target import Sample


def features_name(target: str, layers: Sequence[int]) -> str:
    """What kept features are told apart by: the target's name, and the layers where there are any."""
    return "-".join([target, *(f"layer{layer}" for layer in layers)])


def _layers_in(name: str, target: str) -> list[int] | None:
    """Layers in a `features_name` of that target; None if it is another's."""
    found = re.fullmatch(re.escape(target) + r"((?:-layer\d+)*)", name)
    return None if found is None else [int(layer) for layer in re.findall(r"\d+", found[1])]


class FeatureCache:
    """Samples and their features in one bfloat16 file, found by sample id.

    `hidden.bin` is appended to first and `index.jsonl` after it, so that whatever the index names is whole.

    Args:
        hidden_size: D.
        target: its name.
        layers: whose inputs are wanted beside the final hidden states. A folder that has those of more of them will do.
        exactly: it will not: whoever fills it has no others.

    Raises:
        SpecFlashError: the folder holds other features.

    Attributes:
        kept: layers whose inputs are in the folder, in their order there.
    """

    def __init__(self, folder: Path, hidden_size: int, target: str, layers: Sequence[int] = (), exactly: bool = False):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        owner, name = self.folder / "target.txt", features_name(target, layers)
        if not owner.exists():
            owner.write_text(name)
        kept = _layers_in(owner.read_text(), target)
        if kept is None or not set(layers) <= set(kept) or exactly and kept != list(layers):
            raise SpecFlashError(f"{folder} holds features of {owner.read_text()}, not of {name}: name another folder.")
        self.kept = kept
        blocks = [0, *(1 + kept.index(layer) for layer in layers)]
        self._width = hidden_size * (1 + len(kept))
        # None where all of a row is wanted as it is.
        self._columns = None
        if blocks != list(range(1 + len(kept))):
            self._columns = torch.cat([torch.arange(block * hidden_size, (block + 1) * hidden_size) for block in blocks])
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

    def holds(self, answer: Answer) -> bool:
        """Whether these are features of just that answer: another prompt may have had its id."""
        sample = self.samples.get(answer.prompt.id)
        return sample is not None and sample.input_ids[sample.answer_start :].tolist() == answer.token_ids

    def append(self, samples: list[Sample], hidden: Iterable[Tensor]) -> None:
        """Keep features of samples: [L, (1 + n) D] or longer each, n layers being `kept`. Of two with one id the later counts."""
        lines = []
        row_bytes = 2 * self._width
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
        """Final hidden states, then those of the layers that are wanted, of one sample: [L, (1 + n) D] bfloat16."""
        length, row = len(self.samples[sample_id]), self._rows[sample_id]
        data = np.memmap(self._hidden, np.int16, "r", 2 * row * self._width, (length, self._width))
        found = torch.from_numpy(np.array(data)).view(torch.bfloat16)
        return found if self._columns is None else found[:, self._columns]
