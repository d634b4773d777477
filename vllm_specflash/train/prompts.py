"""Prompts in: jsonl in the OpenAI chat format, the short form `prompt` + `images`, or a folder of images."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.train.images import images_below
from vllm_specflash.train.skipped import Unusable, skip


@dataclass(frozen=True)
class Prompt:
    """One conversation that ends with a user's turn.

    `messages` are in transformers' chat format: content is a string, or a list of parts `{"type": "text", "text"}`,
    `{"type": "image", "path"}` and `{"type": "video", "path"}` with an absolute path, in the order of the prompt.
    """

    id: str
    task: str
    messages: list[dict]

    @property
    def parts(self) -> list[dict]:
        """All parts in order, a string being one of type text."""
        contents = (m["content"] for m in self.messages)
        return [p for c in contents for p in ([{"type": "text", "text": c}] if isinstance(c, str) else c)]

    @property
    def image_paths(self) -> list[Path]:
        return [Path(part["path"]) for part in self.parts if part["type"] == "image"]

    @property
    def video_paths(self) -> list[Path]:
        return [Path(part["path"]) for part in self.parts if part["type"] == "video"]

    @property
    def sees(self) -> bool:
        """Whether it has an image or a video."""
        return bool(self.image_paths or self.video_paths)

    @property
    def text(self) -> str:
        return "\n".join(part["text"] for part in self.parts if part["type"] == "text")


def _part(part: dict, folder: Path) -> dict:
    """One part of an OpenAI or transformers message in the form that `Prompt` documents."""
    if part["type"] == "text":
        return {"type": "text", "text": part["text"]}
    kind = part["type"].removesuffix("_url")
    if kind in ("image", "video"):
        place = part["path"] if "path" in part else part[f"{kind}_url"]["url"]
        article = "an" if kind == "image" else "a"
        if place.startswith(("http://", "https://", "data:")):
            raise Unusable(f"{article} {kind} is not a file", f"{place[:60]}; download it and name the file")
        path = folder / place.removeprefix("file://")
        if not path.is_file():
            raise Unusable(f"{article} {kind} that the prompt names is missing", str(path))
        return {"type": kind, "path": str(path.resolve())}
    raise Unusable(f"parts of type {part['type']!r} are not supported")


def parse_prompt(record: dict, folder: Path) -> Prompt:
    """A jsonl record as a Prompt; image paths are relative to `folder`.

    Raises:
        Unusable: the record is not a prompt, or names an image that is not there.
    """
    try:
        if "messages" in record:
            messages = record["messages"]
        else:
            images = [{"type": "image", "path": path} for path in record.get("images", ())]
            text = record["prompt"]
            messages = [{"role": "user", "content": [*images, {"type": "text", "text": text}] if images else text}]
        if not messages or messages[-1]["role"] != "user":
            raise Unusable("the conversation does not end with a user's turn")
        normal = [
            {"role": m["role"], "content": m["content"] if isinstance(m["content"], str)
             else [_part(part, folder) for part in m["content"]]}
            for m in messages
        ]  # fmt: skip
        return Prompt(str(record["id"]), str(record.get("task", "default")), normal)
    except KeyError as error:
        raise Unusable(f"no field {error}") from error
    except (TypeError, AttributeError) as error:
        raise Unusable("a field has the wrong type", str(error)) from error


def read_prompts(path: Path, skipped: Counter) -> Iterator[Prompt]:
    """Prompts of a jsonl file in order; a bad line is left out and its reason counted in `skipped`."""
    # Bytes that are not UTF-8 spoil their own line, not the rest of the file.
    with open(path, encoding="utf-8", errors="surrogateescape") as lines:
        for number, line in enumerate(lines):
            try:
                line.encode()
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise Unusable("the line is not a JSON object")
                record.setdefault("id", f"{path.stem}-{number:06d}")
                yield parse_prompt(record, path.parent)
            except (json.JSONDecodeError, UnicodeError) as error:
                skip(skipped, f"{path.name} line {number + 1}", Unusable("the line is not JSON", str(error)))
            except Unusable as error:
                skip(skipped, f"{path.name} line {number + 1}", error)


def prompts_of_images(folder: Path, templates: list[str]) -> Iterator[Prompt]:
    """One prompt per image below `folder` and template, in the order of the paths.

    `{name}` in a template stands for the file's name without its suffix; the task is the image's subfolder, or "images".
    """
    for path in images_below(folder):
        within = path.relative_to(folder)
        for number, template in enumerate(templates):
            text = template.replace("{name}", path.stem)
            content = [{"type": "image", "path": str(path.resolve())}, {"type": "text", "text": text}]
            task = within.parts[0] if len(within.parts) > 1 else "images"
            yield Prompt(f"{within.as_posix()}#{number}", task, [{"role": "user", "content": content}])
