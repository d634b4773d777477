"""What a benchmark compares: ways to run one target."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vllm_specflash.config import METHOD, SpecFlashOptions

PLAIN = "plain"
# vLLM's own, with a draft that `specflash eagle3` trained.
EAGLE3 = "eagle3"

# vLLM's own methods that need no draft model, with the settings its documentation uses.
OWN_METHODS = {
    "ngram": {"method": "ngram", "num_speculative_tokens": 5, "prompt_lookup_max": 4, "prompt_lookup_min": 2},
    "suffix": {"method": "suffix"},
}


@dataclass(frozen=True)
class Method:
    """A name for the tables and vLLM's `speculative_config` for it; None is plain vLLM."""

    name: str
    speculative_config: dict[str, Any] | None

    @property
    def is_specflash(self) -> bool:
        return self.speculative_config is not None and self.speculative_config.get("method") == METHOD

    def on(self, target: str) -> "Method | None":
        """The same with the draft for a target of that name, where an EAGLE-3 draft's folder holds several, called like their targets;
        None where it holds none for this one."""
        given = self.speculative_config or {}
        if given.get("method") != EAGLE3 or "model" not in given:
            return self
        folder = Path(given["model"])
        if not folder.is_dir() or (folder / "config.json").exists():
            return self
        own = folder / target
        return replace(self, speculative_config={**given, "model": str(own)}) if (own / "config.json").exists() else None


def chances(text: str) -> tuple[float, ...]:
    """"P1,P2,..." as numbers.

    Raises:
        ValueError: not numbers.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"--synthetic-acceptance is {text!r}: give chances between commas, as in 0.8,0.6,0.4.") from None


def synthetic_methods(rates: tuple[float, ...], draft: str | None) -> tuple[Method, ...]:
    """SpecFLASH with trees and with chains, drafts accepted by chance: the first token with chance rates[0], the first two with ...

    Raises:
        ValueError: these are no such chances.
    """
    shared = {"method": METHOD, "sizing": "longest", "synthetic_acceptance": list(rates), **({"model": draft} if draft else {})}
    methods = (
        Method("synthetic trees", {**shared, "tree": True}),
        Method("synthetic chains", {**shared, "tree": False, "num_speculative_tokens": len(rates)}),
    )
    for method in methods:
        SpecFlashOptions.from_user(method.speculative_config)
    return methods


def parse_method(text: str, draft: str | None = None) -> Method:
    """`plain`, `specflash`, `ngram`, `suffix`, `eagle3=FOLDER`, or `NAME={...}` with vLLM's speculative config as JSON.

    Args:
        text: what the user wrote.
        draft: SpecFLASH's draft where the text names none; None leaves the choice to the plugin.

    Raises:
        ValueError: none of these.
    """
    if text == PLAIN:
        return Method(PLAIN, None)
    if text in OWN_METHODS:
        return Method(text, dict(OWN_METHODS[text]))
    name, _, config = text.partition("=")
    if name == EAGLE3 and config and not config.startswith("{"):
        if "/" not in config and not Path(config).is_dir():
            raise ValueError(f"There is no folder {config!r}: train a draft with `specflash eagle3`, or name one of a hub as OWNER/NAME.")
        return Method(EAGLE3, {"method": EAGLE3, "model": config, "num_speculative_tokens": 5})
    if name == text and text != METHOD:
        known = ", ".join([PLAIN, METHOD, *OWN_METHODS, f"{EAGLE3}=FOLDER"])
        raise ValueError(f"There is no method {text!r}: use {known}, or NAME={{...}} with a speculative_config as JSON.")
    try:
        given = json.loads(config) if config else {"method": METHOD}
    except json.JSONDecodeError as error:
        raise ValueError(f"The speculative_config of method {name!r} is not JSON: {error}.") from None
    if not isinstance(given, dict) or "method" not in given:
        raise ValueError(f'The speculative_config of method {name!r} must be a JSON object with a "method".')
    if given["method"] == METHOD and draft:
        given.setdefault("model", draft)
    return Method(name, given)
