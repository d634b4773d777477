"""What a soak found, and whether all is as it should be."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vllm_specflash.lab.bench.identity import Agreement
from vllm_specflash.lab.serving.clients import Outcome
from vllm_specflash.lab.soak.hostile import Refusals
from vllm_specflash.lab.soak.memory import Sample

MIB = 2**20
MAX_GROWTH = 0.02


@dataclass(frozen=True)
class Held:
    """What the server holds, from /metrics: requests, and the share of the KV cache in use."""

    running: float
    waiting: float
    kv_cache: float

    @property
    def nothing(self) -> bool:
        return not (self.running or self.waiting or self.kv_cache)


@dataclass(frozen=True)
class SoakResult:
    """Counts over the whole soak.

    Attributes:
        requests: all that were asked; `completed` and `aborted` of them, the rest failed.
        by_kind: requests by task, and how many of them were greedy.
        errors: their messages, with how often each came.
        malformed: what malformed requests got, which `requests` does not count; None where there were none.
        draft_failures: times the server's log says that drafting failed.
        held: once everything was quiet.
        preemptions: by vLLM's counter.
        peak_kv_cache: greatest share of the KV cache seen in use: how tight it was.
        tokens_per_step: 1 + accepted / drafts, by vLLM's counters.
        memory: resident memory of the server's processes over time.
        memory_growth: after the start-up phase, as a share; None where the soak was too short.
        agreement: completed greedy answers with plain vLLM's; a prompt counts every time it was answered.
    """

    seconds: float
    requests: int
    completed: int
    aborted: int
    by_kind: dict[str, int]
    errors: dict[str, int]
    draft_failures: int
    generated_tokens: int
    held: Held
    preemptions: float
    peak_kv_cache: float
    tokens_per_step: float
    memory: Sequence[Sample]
    memory_growth: float | None
    agreement: Agreement
    malformed: Refusals | None = None

    @property
    def clean(self) -> bool:
        grew = self.memory_growth is not None and self.memory_growth >= MAX_GROWTH
        wrong = self.malformed is not None and self.malformed.wrong
        faults = self.errors or self.draft_failures or grew or wrong
        return not faults and self.held.nothing and self.agreement.explained

    def lines(self) -> Iterator[str]:
        """The result in sentences."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.by_kind.items())
        yield (
            f"{self.requests} requests in {self.seconds / 60:.1f} minutes ({kinds}): {self.completed} answered, "
            f"{self.aborted} aborted by the client, {sum(self.errors.values())} errors"
        )
        for message, count in self.errors.items():
            yield f"error, {count} times: {message}"
        if self.malformed is not None:
            yield str(self.malformed)
        if self.draft_failures:
            yield "drafting failed: see the server's log"
        yield (
            f"{self.generated_tokens} tokens received, {self.tokens_per_step:.2f} per step and request, "
            f"{self.preemptions:.0f} preemptions, up to {self.peak_kv_cache:.0%} of the KV cache in use"
        )
        yield (
            f"afterwards {self.held.running:.0f} requests running, {self.held.waiting:.0f} waiting, "
            f"{self.held.kv_cache:.1%} of the KV cache in use"
        )
        if self.memory:
            grown = "not judged, too short" if self.memory_growth is None else f"{self.memory_growth:+.2%}"
            end = self.memory[-1][1] / MIB
            yield f"resident memory {end:.0f} MiB at the end; growth after the start-up phase {grown}"
        agreement = self.agreement
        yield f"{agreement.identical} of {agreement.compared} greedy answers identical to plain vLLM's"
        for difference in agreement.differences:
            gap = "unknown" if difference.gap is None else f"{difference.gap:.2f} steps"
            yield f"{difference.prompt_id} differs from token {difference.position} on, two best logits {gap} apart"


def count_errors(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How often each message came, most often first."""
    return dict(Counter(outcome.error for outcome in outcomes if outcome.error).most_common())
