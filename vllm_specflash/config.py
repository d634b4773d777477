"""What a user may say in `speculative_config`, and where a draft is looked for. Imports no vLLM."""

import dataclasses
import difflib
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

METHOD = "specflash"
# Path of the attention backend that verifies trees, as vLLM's registry wants it.
TREE_BACKEND = "vllm_specflash.engine.v2.backend.TreeAttentionBackend"
# Side paths of trees copy the block that holds their root; vLLM's default of 128 on CPUs makes that four times the work.
TREE_BLOCK_SIZE = 32
# A tree and its root fit the 64 bits of an ancestor mask; vLLM itself stops at 128.
MAX_SPECULATIVE_TOKENS = 63
SIZINGS = ("auto", "longest")
# How alike a word must be to be taken for a misspelt "specflash"; vLLM's nearest method, "dflash", is 0.67 alike.
ALMOST = 0.8


class SpecFlashError(ValueError):
    """Something a user can put right; the message is one sentence that says what is wrong and what to do."""


def option(default: Any, description: str) -> Any:
    """A dataclass field whose description is what the documentation prints."""
    return field(default=default, metadata={"description": description})


@dataclass(frozen=True)
class SpecFlashOptions:
    """The keys of `speculative_config`, as in `{"method": "specflash", "model": "path/to/draft"}`."""

    model: str | None = option(None, "Draft checkpoint: a folder or a hub id. Default: the target's `specflash/` folder.")
    num_speculative_tokens: int | None = option(
        None,
        "Most drafted tokens per request and step. Default: 16 with trees; otherwise what the draft was trained for, "
        "K tokens times its rounds.",
    )
    tree: bool | None = option(
        None,
        "Draft trees, K tokens times the draft's rounds deep, where the request's settings allow it; false: chains, as long as "
        "num_speculative_tokens says. Default: true, except on CPUs that Triton has a backend for (rare).",
    )
    lookup: bool | None = option(
        None,
        "Also draft what followed where the request's own text read before as it reads now: code, extraction and lists repeat themselves. "
        "Default: true for targets that see no pictures.",
    )
    sizing: str = option(
        "auto",
        "Size of each draft: 'auto' weighs chances of acceptance against what the batch's step costs, measured when "
        "such an engine first started; 'longest' always drafts as much as it may.",
    )
    min_confidence: float = option(
        0.02, "Tokens whose chance of being accepted, as the draft sees it, falls below this are not drafted. On model runner V1 alone: nearly all CPUs."
    )
    revision: str | None = option(None, "Hub revision of the draft.")
    check_target_name: bool = option(True, "Refuse a draft that was trained for a target of another name.")
    synthetic_acceptance: tuple[float, ...] | None = option(
        None,
        "For `specflash bench --synthetic-acceptance` alone, and refused elsewhere: the chance that the tokens of the first 1, 2, ... "
        "depths are accepted, whatever the target says.",
    )

    def looks_up(self, sees: bool) -> bool:
        """Whether drafts copy, for a target that sees pictures or none: a draft of what is in them is surer of itself than any copy."""
        return not sees if self.lookup is None else self.lookup

    @classmethod
    def from_user(cls, given: "str | dict[str, Any]") -> "SpecFlashOptions":
        """Options from the bare word or the dict form; `method` itself is not kept.

        Raises:
            SpecFlashError: an unknown key, or a value out of range.
        """
        given = {} if isinstance(given, str) else {key.replace("-", "_"): value for key, value in given.items()}
        given.pop("method", None)
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise SpecFlashError(
                f"speculative_config has no option {', '.join(map(repr, unknown))} for method 'specflash': "
                f"use only method, {', '.join(known)}."
            )
        if isinstance(given.get("model"), os.PathLike):
            given["model"] = os.fspath(given["model"])
        if isinstance(given.get("synthetic_acceptance"), list):
            given["synthetic_acceptance"] = tuple(given["synthetic_acceptance"])
        options = cls(**given)
        options._check()
        return options

    def _check(self) -> None:
        for name in ("model", "revision"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise SpecFlashError(f"{name} is {value!r}: give it as a string, or leave it out.")
        for name in ("tree", "lookup", "check_target_name"):
            value = getattr(self, name)
            if not isinstance(value, bool) and (value is not None or name == "check_target_name"):
                raise SpecFlashError(f"{name} is {value!r}: give true or false.")
        tokens = self.num_speculative_tokens
        # True and False are integers to Python.
        if tokens is not None and (type(tokens) is not int or not 1 <= tokens <= MAX_SPECULATIVE_TOKENS):
            raise SpecFlashError(
                f"num_speculative_tokens is {tokens!r}: give a whole number from 1 to {MAX_SPECULATIVE_TOKENS}, "
                "or leave it out for the draft's own."
            )
        if self.sizing not in SIZINGS:
            raise SpecFlashError(f"sizing is {self.sizing!r}: give one of {', '.join(map(repr, SIZINGS))}.")
        rates = self.synthetic_acceptance
        if rates is not None and not _falling(rates):
            raise SpecFlashError(
                f"synthetic_acceptance is {rates!r}: give chances from 1 down to 0, one per depth, none above the one before."
            )
        if type(self.min_confidence) not in (int, float) or not 0 <= self.min_confidence < 1:
            raise SpecFlashError(f"min_confidence is {self.min_confidence!r}: give a number from 0 up to, not including, 1.")


def _falling(rates: Any) -> bool:
    """Whether they are chances, each at most the one before."""
    numbers = isinstance(rates, tuple) and rates and all(type(rate) in (int, float) for rate in rates)
    return bool(numbers) and 1 >= rates[0] and rates[-1] >= 0 and all(b <= a for a, b in zip(rates, rates[1:]))


def names_specflash(speculative_config: Any) -> bool:
    """Whether a user's `speculative_config` (bare word, dict, or something else) asks for this plugin.

    A dict without a method does where its model is one of our drafts.
    """
    if isinstance(speculative_config, dict):
        method = speculative_config.get("method")
        return method == METHOD or method is None and is_draft(speculative_config.get("model"))
    return speculative_config == METHOD


def refuse_almost_specflash(method: Any, model: Any = None) -> None:
    """Raise where a user means this plugin and does not say so.

    Args:
        method: what was given for vLLM's speculative method.
        model: what was given for its draft.

    Raises:
        SpecFlashError: the method is almost our name, or another one with a draft of ours.
    """
    if not isinstance(method, str) or method == METHOD:
        return
    if difflib.get_close_matches(method.strip().lower(), [METHOD], cutoff=ALMOST):
        raise SpecFlashError(f"There is no speculative method {method!r}: did you mean {METHOD!r}?")
    if is_draft(model):
        raise SpecFlashError(f'{model} is a SpecFLASH draft: give the method "specflash" with it, not {method!r}.')


def as_path(name: str | os.PathLike) -> Path:
    """Where a name that a user gave lies on this machine; `~somebody`, where there is nobody of that name, as it is written."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_draft(model: Any) -> bool:
    """Whether a folder, or a hub repository in this machine's cache, says in its config.json that it is one of our drafts."""
    if not isinstance(model, (str, os.PathLike)) or not os.fspath(model):
        return False
    path = as_path(model) / "config.json"
    try:
        if not path.is_file():
            from huggingface_hub import try_to_load_from_cache

            path = Path(try_to_load_from_cache(os.fspath(model), "config.json") or "")
        return json.loads(path.read_text(encoding="utf-8")).get("model_type") == METHOD
    # No config, no JSON, no name that the hub knows: no draft that we could tell.
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def find_draft(options: SpecFlashOptions, target: str, target_revision: str | None = None) -> Path:
    """Folder of the draft checkpoint.

    Raises:
        SpecFlashError: nothing there, with the places looked at.
    """
    if options.model is None:
        return _target_draft(target, target_revision)
    folder = as_path(options.model)
    if folder.is_dir():
        return _require_config(folder, 'pass as "model" the folder that `specflash train` wrote')
    if options.model.startswith((".", "/", "~")):
        raise SpecFlashError(f'No SpecFLASH draft at {options.model}: the folder does not exist; correct "model".')
    return _require_config(
        _from_hub(options.model, options.revision, None), "name a hub repository that holds a SpecFLASH draft"
    )


def _target_draft(target: str, revision: str | None) -> Path:
    advice = 'name a draft with {"method": "specflash", "model": "<folder or hub id>"}, or train one with `specflash train`'
    if Path(target).is_dir():
        return _require_config(Path(target) / "specflash", advice)
    try:
        folder = _from_hub(target, revision, ["specflash/*"]) / "specflash"
    except SpecFlashError as error:
        raise SpecFlashError(f"{str(error).removesuffix('.')}; {advice}.") from None
    return _require_config(folder, advice)


def _require_config(folder: Path, advice: str) -> Path:
    if not (folder / "config.json").is_file():
        raise SpecFlashError(f"No SpecFLASH draft found: {folder} has no config.json; {advice}.")
    if not any(folder.glob("*.safetensors")):
        raise SpecFlashError(f"The SpecFLASH draft in {folder} has no model.safetensors: copy its weights there.")
    return folder


def _from_hub(repo: str, revision: str | None, patterns: list[str] | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repo, revision=revision, allow_patterns=patterns))
    except Exception as error:
        reason = first_sentence(error)
        raise SpecFlashError(f"No SpecFLASH draft found: {repo} could not be read from the hub ({reason}).") from error


def first_sentence(error: Exception) -> str:
    """What another library's error says first, on one line and without its full stop."""
    return re.split(r"\.(?: [A-Z]|$)", " ".join(str(error).split()))[0] or type(error).__name__
