"""Counters of the draft side: `collective_rpc("specflash_stats")` reads them, and so do metrics (engine/metrics.py)."""

import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, fields

import torch

PREFIX = "vllm:specflash_"
# The one gauge among the metrics, and what its help says.
ACCEPTANCE_LENGTH = f"{PREFIX}acceptance_length"
ACCEPTANCE_HELP = "Tokens per decoding request and target forward (tau), over about the last hundred steps."


def counted(metric: str, description: str) -> float:
    """A counter, its name among the metrics, and what its help says."""
    return field(default=0, metadata={"metric": f"{PREFIX}{metric}", "description": description})


@dataclass
class DraftStats:
    """Totals since the engine started; times in seconds of the host."""

    steps: int = counted("steps", "Engine steps that reached the draft.")
    paused_steps: int = counted("paused_steps", "Of these, steps without drafts because drafting did not pay.")
    seconds: float = counted("draft_seconds", "Seconds spent on drafting.")
    network_seconds: float = counted("network_seconds", "Of these, seconds in the draft's forward and its cache.")
    verify_seconds: float = counted(
        "verify_seconds", "Seconds spent on verifying drafts, in and around the target's forward: positions, paths, acceptance, moves."
    )
    proposed_tokens: int = counted("proposed_tokens", "Drafted tokens (nodes of trees) handed to the scheduler.")
    branching: int = counted("branching_drafts", "Drafts that were more than a chain.")
    moved: int = counted("moved_drafts", "Drafts whose accepted path did not lie where a chain would, so that its KV was copied.")
    decodes: int = counted("decodes", "Decoding requests, summed over target forwards, with a draft or without.")
    decoded_tokens: int = counted("decoded_tokens", "Tokens that these forwards emitted, accepted drafts among them.")
    visual_tokens: int = counted("visual_tokens", "Visual tokens that were compressed for the draft.")
    latents: int = counted("latents", "Latents that they became.")
    errors: int = counted("errors", "Steps in which the draft side failed and proposed nothing.")

    def __post_init__(self):
        self._taken: dict[str, float] = {}

    @classmethod
    def described(cls) -> list[tuple[str, str, str]]:
        """Name, metric (without `_total`) and description of every counter."""
        return [(counter.name, counter.metadata["metric"], counter.metadata["description"]) for counter in fields(cls)]

    @contextmanager
    def timing(self, counter: str):
        """Add the time inside to one of the seconds."""
        began = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, counter, getattr(self, counter) + time.perf_counter() - began)

    def totals(self) -> dict[str, float]:
        """Every counter by name."""
        return {counter.name: getattr(self, counter.name) for counter in fields(self)}

    def take(self) -> dict[str, float]:
        """What was added to every counter since the last call."""
        totals = self.totals()
        added = {name: total - self._taken.get(name, 0) for name, total in totals.items()}
        self._taken = totals
        return added


def seconds(work: Callable[[], object]) -> float:
    """What work takes, the device's share included."""
    torch.accelerator.synchronize()
    began = time.perf_counter()
    work()
    torch.accelerator.synchronize()
    return time.perf_counter() - began
