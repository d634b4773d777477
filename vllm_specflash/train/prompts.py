"""Prompts in: jsonl in the OpenAI chat format, or the short form `prompt` + `images`."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Prompt:
    """One conversation that ends with a user's turn.

    `messages` are in transformers' chat format: content is a string, or a list of parts `{"type": "text", "text"}`
    and `{"type": "image", "path"}` with an absolute path, in the order of the prompt.
    """

    id: str
    task: str
    messages: list[dict]

    @property
    def image_paths(self) -> list[Path]:
        parts = (part for m in self.messages if isinstance(m["content"], list) for part in m["content"])
        return [Path(part["path"]) for part in parts if part["type"] == "image"]


def _part(part: dict, folder: Path) -> dict:
    """One part of an OpenAI or transformers message in the form that `Prompt` documents."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    if part["type"] in ("image", "image_url"):
        place = part["path"] if "path" in part else part["image_url"]["url"]
        path = folder / place.removeprefix("file://")
        if not path.is_file():
            raise ValueError(f"there is no image {path}")
        return {"type": "image", "path": str(path.resolve())}
    raise ValueError(f"parts of type {part['type']!r} are not supported")


def parse_prompt(record: dict, folder: Path) -> Prompt:
    """A jsonl record as a Prompt; image paths are relative to `folder`. Raises ValueError or KeyError on bad input."""
    if "messages" in record:
        messages = record["messages"]
    else:
        images = [{"type": "image", "path": path} for path in record.get("images", ())]
        text = record["prompt"]
        messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text}]
    if not messages or messages[-1]["role"] != "user":
        raise ValueError("the conversation does not end with a user's turn")
    normal = [
        {"role": m["role"], "content": m["content"] if isinstance(m["content"], str)
         else [_part(part, folder) for part in m["content"]]}
        for m in messages
    ]  # fmt: skip
    return Prompt(str(record["id"]), record.get("task", "default"), normal)


def read_prompts(path: Path, skipped: Counter) -> Iterator[Prompt]:
    """Prompts of a jsonl file in order; a bad line is left out and its reason counted in `skipped`."""
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines):
            try:
                record = json.loads(line)
                record.setdefault("id", f"{path.stem}-{number:06d}")
                yield parse_prompt(record, path.parent)
            except KeyError as error:
                skipped[f"no field {error}"] += 1
            except (ValueError, AttributeError) as error:
                skipped[str(error)] += 1
