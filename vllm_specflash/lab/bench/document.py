"""The JSON file of a benchmark: written after every pass, so that an interrupted run goes on where it stopped."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.bench.engine_setup import EngineFacts
from vllm_specflash.lab.bench.records import Output, Pass
from vllm_specflash.lab.bench.result import shortened, write_result
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.provenance import provenance

SCHEMA = 1


def read(path: Path) -> dict:
    """What a benchmark's file says. Raises SpecFlashError for a file that is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        data = None
    if not isinstance(data, dict) or not {"schema", "settings", "passes"} <= data.keys():
        raise SpecFlashError(f"{path} is no file of specflash bench: name one that it wrote, or another place.")
    return data


class Document:
    """Settings, facts, reference answers and passes.

    Layout: `provenance`, `device`, `settings`; `engines[target][method]`; `prompts[target][task]`: ids;
    `references["target/task/batch"][prompt id]`: plain vLLM's tokens and logit gaps; `passes`: a list, one per target,
    task, batch size, method and repeat; `summary`: rows as summary.Row documents them.
    """

    def __init__(self, path: Path | None, settings: dict):
        """Open `path` if it is there, else begin anew; None keeps everything in memory.

        Raises:
            ValueError: the file was made with other settings, or is no benchmark's.
        """
        self.path = path
        # As it will be read back: tuples become lists.
        settings = json.loads(shortened(json.dumps(settings)))
        if path is not None and path.is_file():
            self.data = read(path)
            if self.data["settings"] != settings or self.data["schema"] != SCHEMA:
                raise ValueError(f"{path} was made with other settings: name another file, or delete it to begin anew.")
            return
        self.data = {
            "schema": SCHEMA,
            "provenance": provenance(),
            "device": device(),
            "settings": settings,
            "engines": {},
            "prompts": {},
            "references": {},
            "passes": [],
            "summary": [],
        }

    def save(self) -> None:
        """Write the file, whole or not at all."""
        if self.path is not None:
            write_result(self.path, self.data)

    def prompts(self, target: str, task: str) -> list[str] | None:
        """Ids of the prompts chosen for a task, if they were."""
        return self.data["prompts"].get(target, {}).get(task)

    def choose(self, target: str, task: str, prompts: list[Prompt]) -> None:
        self.data["prompts"].setdefault(target, {})[task] = [prompt.id for prompt in prompts]
        self.data.setdefault("prompts_sha256", {}).setdefault(target, {})[task] = _digest(prompts)
        self.save()

    def found_again(self, target: str, task: str, candidates: list[Prompt]) -> list[Prompt]:
        """The chosen ones among candidates. Raises ValueError where they are not what was chosen."""
        by_id, wanted = {prompt.id: prompt for prompt in candidates}, self.prompts(target, task)
        found = [by_id[prompt_id] for prompt_id in wanted if prompt_id in by_id]
        # Files of earlier versions name no digest.
        digest = self.data.get("prompts_sha256", {}).get(target, {}).get(task)
        if len(found) < len(wanted) or digest not in (None, _digest(found)):
            raise ValueError(f"{self.path} was made with other prompts: name another file, or delete it to begin anew.")
        return found

    def add_engine(self, target: str, method: str, facts: EngineFacts) -> None:
        self.data["engines"].setdefault(target, {})[method] = asdict(facts)
        self.save()

    def engines(self, target: str) -> dict[str, EngineFacts]:
        return {method: EngineFacts(**facts) for method, facts in self.data["engines"].get(target, {}).items()}

    def reference(self, target: str, task: str, batch_size: int) -> dict[str, Output] | None:
        """Plain vLLM's answers by prompt id, if they were recorded."""
        answers = self.data["references"].get(f"{target}/{task}/{batch_size}")
        return None if answers is None else {prompt_id: Output(**answer) for prompt_id, answer in answers.items()}

    def add_reference(self, target: str, task: str, batch_size: int, outputs: Sequence[Output]) -> None:
        for output in outputs:
            output.gaps = [round(gap, 3) for gap in output.gaps or ()]
        self.data["references"][f"{target}/{task}/{batch_size}"] = {o.prompt_id: asdict(o) for o in outputs}
        self.save()

    def has(self, target: str, task: str, batch_size: int, method: str, repeat: int) -> bool:
        key = (target, task, batch_size, method, repeat)
        return any(_key(record) == key for record in self.data["passes"])

    def add(self, target: str, task: str, batch_size: int, method: str, repeat: int, done: Pass) -> None:
        outputs = [{**asdict(output), "gaps": None} for output in done.outputs]
        self.data["passes"].append(
            {
                **{"target": target, "task": task, "batch_size": batch_size, "method": method, "repeat": repeat},
                **{"wall_seconds": done.wall_seconds, "mean_length": done.mean_length},
                **{"decode_seconds_per_token": done.decode_seconds_per_token},
                **{"seconds_per_token": done.seconds_per_token, "acceptance_length": done.acceptance_length},
                **{"steps": asdict(done.steps), "drafts": asdict(done.drafts), "outputs": outputs},
            }
        )
        self.save()

    def cells(self) -> Iterator[tuple[str, str, int]]:
        """Every (target, task, batch size) that has a pass, in the order they came."""
        yield from dict.fromkeys(_key(record)[:3] for record in self.data["passes"])

    def passes(self, target: str, task: str, batch_size: int) -> dict[str, list[dict]]:
        """Passes of a cell by method, in order of their repeats."""
        found: dict[str, list[dict]] = {}
        for record in sorted(self.data["passes"], key=lambda record: record["repeat"]):
            if _key(record)[:3] == (target, task, batch_size):
                found.setdefault(record["method"], []).append(record)
        return found


def _digest(prompts: Sequence[Prompt]) -> str:
    """Of what is asked, and of the names of the files that it is asked about."""
    asked = [[p.id, p.text, *(path.name for path in p.image_paths + p.video_paths)] for p in prompts]
    return sha256(json.dumps(asked).encode()).hexdigest()


def _key(record: dict) -> tuple:
    return tuple(record[name] for name in ("target", "task", "batch_size", "method", "repeat"))
