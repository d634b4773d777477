"""Medians, spreads and speed-ups over repeats."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median


@dataclass(frozen=True)
class Spread:
    """Median with the least and the greatest value."""

    median: float
    least: float
    greatest: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f}-{self.greatest:.2f})"


def speed_up(plain: Sequence[float], other: Sequence[float]) -> Spread:
    """Ratios plain / other of the same repeat: what drifts slowly on a machine hits both and cancels."""
    return Spread.of([p / o for p, o in zip(plain, other)])


@dataclass(frozen=True)
class Row:
    """One method on one task at one batch size, over its repeats.

    Attributes:
        target, task, batch_size, method: which.
        repeats: how many passes.
        mean_length: output tokens per answer.
        decode_ms: per output token after the first.
        end_to_end_ms: per output token, everything included.
        decode_speed_up, end_to_end_speed_up: over plain vLLM in the same repeat; None for plain itself.
        acceptance_length: tau.
        acceptance_per_position: share of drafts whose i-th token was accepted.
        step: milliseconds per decoding step: wall, forward, draft, network, and what is left of each.
        verify_ms: milliseconds per decoding step in the plugin's part of verification, which lies in several of those parts.
        identical: answers identical to plain vLLM's at the same batch size, as "identical/compared".
        draft_errors: steps in which the draft side failed.
        widest_gap: greatest top-2 logit gap at a first difference, in steps; None without differences.
    """

    target: str
    task: str
    batch_size: int
    method: str
    repeats: int
    mean_length: float
    decode_ms: Spread
    end_to_end_ms: Spread
    decode_speed_up: Spread | None
    end_to_end_speed_up: Spread | None
    acceptance_length: float
    acceptance_per_position: list[float] = field(default_factory=list)
    step: dict[str, float] = field(default_factory=dict)
    verify_ms: float = 0.0
    identical: str = ""
    draft_errors: int = 0
    widest_gap: float | None = None


def step_milliseconds(decode: dict[str, float], part: str) -> float:
    """Of one decoding step, in one part."""
    return 1000 * decode[f"{part}_seconds"] / max(1, decode["steps"])


def step_parts(decode: dict[str, float]) -> dict[str, float]:
    """Milliseconds per decoding step out of records.StepTotals in dict form; the parts but `wall` add up to it."""
    wall, worker, forward, draft, network = (
        step_milliseconds(decode, part) for part in ("wall", "worker", "forward", "draft", "network")
    )
    return {
        "wall": wall,
        "target forward": forward,
        "draft network": network,
        "draft host": draft - network,
        "sampling": worker - forward - draft,
        "scheduler": wall - worker,
    }


def acceptance_per_position(drafts: dict) -> list[float]:
    """Share of the drafts whose i-th token was accepted, out of records.Drafts in dict form; trailing zeros cut."""
    shares = [accepted / max(1, drafts["drafts"]) for accepted in drafts["accepted_per_position"]]
    while shares and not shares[-1]:
        shares.pop()
    return shares
