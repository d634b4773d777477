"""What one pass over a task's prompts gave. Plain data: it crosses process borders and ends in JSON."""

from dataclasses import dataclass, field


@dataclass
class StepTotals:
    """Sums over engine steps of one kind; seconds of the host, seen from the worker.

    Attributes:
        steps: engine steps.
        wall_seconds: from one step's beginning to the next one's, so vLLM's scheduler and detokeniser are in it.
        worker_seconds: of those, inside the worker.
        forward_seconds: of those, in the target's forward (without its lm_head); on model runner V2 all before sampling.
        draft_seconds: of those, in proposing drafts.
        network_seconds: of those, in the SpecFLASH draft's forward and its cache.
        verify_seconds: of worker_seconds, in the plugin's part of verification, in and around the target's forward.
    """

    steps: int = 0
    wall_seconds: float = 0.0
    worker_seconds: float = 0.0
    forward_seconds: float = 0.0
    draft_seconds: float = 0.0
    network_seconds: float = 0.0
    verify_seconds: float = 0.0


@dataclass
class Steps:
    """Where a pass's time went.

    Attributes:
        decode: steps that only decode.
        prefill: all others.
        request_steps: target forwards that gave a request tokens after its first, over all steps.
        draft_errors: steps in which SpecFLASH's draft side failed.
    """

    decode: StepTotals = field(default_factory=StepTotals)
    prefill: StepTotals = field(default_factory=StepTotals)
    request_steps: int = 0
    draft_errors: int = 0


@dataclass
class Drafts:
    """vLLM's own speculative counters over a pass."""

    drafts: int = 0
    draft_tokens: int = 0
    accepted_tokens: int = 0
    accepted_per_position: list[int] = field(default_factory=list)


@dataclass
class Output:
    """One answer.

    Attributes:
        prompt_id: of the prompt.
        token_ids: emitted tokens, n of them.
        text: the same, readable.
        first_seconds: from the request's arrival to its first token.
        decode_seconds: from the first token to the last.
        finish_reason: vLLM's.
        gaps: [n] how far the best logit lay above the second best, in steps of the logit's dtype (see identity.py);
            only where it was asked for.
    """

    prompt_id: str
    token_ids: list[int]
    text: str
    first_seconds: float
    decode_seconds: float
    finish_reason: str | None = None
    gaps: list[float] | None = None


@dataclass
class Pass:
    """One method's answers to a task's prompts, asked `batch_size` at a time."""

    outputs: list[Output]
    wall_seconds: float
    steps: Steps
    drafts: Drafts

    @property
    def tokens(self) -> int:
        return sum(len(output.token_ids) for output in self.outputs)

    @property
    def mean_length(self) -> float:
        return self.tokens / max(1, len(self.outputs))

    @property
    def decode_seconds_per_token(self) -> float:
        """Mean time per output token after the first, every token counting the same."""
        later = sum(len(output.token_ids) - 1 for output in self.outputs)
        return sum(output.decode_seconds for output in self.outputs) / max(1, later)

    @property
    def seconds_per_token(self) -> float:
        """End to end: image processing, prefill and decoding of everything, over all tokens."""
        return self.wall_seconds / max(1, self.tokens)

    @property
    def acceptance_length(self) -> float:
        """Tau: tokens after the first per target forward that served the request."""
        later = sum(len(output.token_ids) - 1 for output in self.outputs)
        return later / self.steps.request_steps if self.steps.request_steps else 1.0
