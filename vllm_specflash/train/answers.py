"""A folder of generated answers: `answers-*.jsonl` shards, each written whole or not at all."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from vllm_specflash.train.prompts import Prompt


@dataclass(frozen=True)
class Answer:
    """What the target said: `token_ids` as it emitted them, end-of-turn token included when it came."""

    prompt: Prompt
    token_ids: list[int]
    text: str
    temperature: float


class AnswerFolder:
    """Shards of answers under one folder; what is there already is never asked for again."""

    def __init__(self, folder: Path):
        self.folder = Path(folder)

    @property
    def shards(self) -> list[Path]:
        return sorted(self.folder.glob("answers-*.jsonl"))

    def __iter__(self) -> Iterator[Answer]:
        for shard in self.shards:
            with open(shard, encoding="utf-8") as lines:
                for line in lines:
                    record = json.loads(line)
                    yield Answer(Prompt(**record.pop("prompt")), **record)

    def ids(self) -> set[str]:
        return {answer.prompt.id for answer in self}

    def append(self, answers: list[Answer]) -> None:
        """Write one more shard; renamed into place so that an interruption leaves no half shard. None for no answers."""
        if not answers:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        number = 1 + max((int(shard.stem.split("-")[1]) for shard in self.shards), default=-1)
        shard = self.folder / f"answers-{number:05d}.jsonl"
        scratch = shard.with_suffix(".part")
        scratch.write_text("".join(json.dumps(asdict(answer)) + "\n" for answer in answers), encoding="utf-8")
        os.replace(scratch, shard)

    def digest(self) -> str:
        """SHA-256 over all shards, for provenance."""
        total = hashlib.sha256()
        for shard in self.shards:
            total.update(shard.read_bytes())
        return total.hexdigest()
