"""What was recorded of one answer, and what follows from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

ROOT = -1


@dataclass(frozen=True)
class Node:
    """A drafted token; `parent` is the index of the node before it, ROOT for the last committed token."""

    token: int
    parent: int


@dataclass(frozen=True)
class Step:
    """One engine step: the draft that it verified and the tokens that came of it; seconds of the host.

    Attributes:
        looks: [S][M], what share of its attention the draft gave each latent of each span when it was made; the rest went
            to text. None where there was no draft.
    """

    scheduled: int
    draft: list[Node]
    emitted: list[int]
    target_seconds: float
    draft_seconds: float
    looks: list[list[float]] | None = None

    @property
    def seconds(self) -> float:
        return self.target_seconds + self.draft_seconds

    @property
    def most_looked(self) -> tuple[int, int, float] | None:
        """Index of the span and of its latent that got most of the draft's attention, and the share; None without any."""
        shares = [(span, latent, share) for span, of in enumerate(self.looks or ()) for latent, share in enumerate(of)]
        return max(shares, key=lambda one: one[2], default=None)

    @property
    def text_look(self) -> float:
        """What share of its attention the draft gave text, the answer so far included."""
        return 1 - sum(map(sum, self.looks or ()))

    @property
    def accepted(self) -> list[int]:
        """Indices of the accepted nodes, from the root down; one fewer than the tokens emitted.

        Raises:
            ValueError: a token was emitted that no node could be accepted for: the record is not of this answer.
        """
        children = {(node.parent, node.token): index for index, node in enumerate(self.draft)}
        path, at = [], ROOT
        for token in self.emitted[:-1]:
            if (at, token) not in children:
                raise ValueError(f"Token {token} was emitted in mid-step, but not drafted after node {at}.")
            at = children[at, token]
            path.append(at)
        return path

    @property
    def fates(self) -> list[str]:
        """Per node: "accepted"; "rejected", where the sampler was asked and said another; or "unreached"."""
        path = set(self.accepted)
        return [
            "accepted" if index in path else "rejected" if node.parent in path | {ROOT} else "unreached"
            for index, node in enumerate(self.draft)
        ]


@dataclass(frozen=True)
class Span:
    """A visual span at target positions `begin` to `end`.

    Attributes:
        grid: frames, rows and columns of patches before any merging; None where the processor does not say.
        weights: [M][N], what each latent weighs each visual token; every row sums to 1.
    """

    begin: int
    end: int
    grid: list[int] | None
    weights: list[list[float]]

    def shape(self, aspect: float) -> tuple[int, int, int]:
        """Frames, rows and columns of visual tokens.

        Args:
            aspect: width / height of the picture, for where only the number of tokens is known.
        """
        count = len(self.weights[0])
        if self.grid is not None:
            frames, rows, columns = self.grid
            # Neighbouring patches are merged into one token, as many in both directions.
            merged = math.isqrt(frames * rows * columns // count)
            if merged and frames * (rows // merged) * (columns // merged) == count:
                return frames, rows // merged, columns // merged
        divisors = [rows for rows in range(1, count + 1) if count % rows == 0]
        rows = min(divisors, key=lambda rows: abs(math.log(count / rows / rows / aspect)))
        return 1, rows, count // rows

    def side(self, shape: tuple[int, int, int]) -> int | None:
        """Latents a row where they are a square grid over the picture, most looking at their own cell; None elsewhere.

        Args:
            shape: frames, rows and columns of visual tokens.
        """
        frames, rows, columns = shape
        count, side = len(self.weights), math.isqrt(len(self.weights))
        if frames > 1 or side * side != count:
            return None
        own = 0
        for latent, weights in enumerate(self.weights):
            down = sum(w * (at // columns + 0.5) for at, w in enumerate(weights)) / rows
            right = sum(w * (at % columns + 0.5) for at, w in enumerate(weights)) / columns
            own += int(down * side) * side + int(right * side) == latent
        return side if 2 * own > count else None

    def width(self, latent: int) -> float:
        """How many tokens a latent looks at: the exponential of its weights' entropy, from 1 to N."""
        return math.exp(-sum(w * math.log(w) for w in self.weights[latent] if w > 0))


@dataclass(frozen=True)
class Record:
    """One answer: prefill steps emit nothing but the last one's first token."""

    steps: list[Step]
    spans: list[Span]

    @classmethod
    def of(cls, taken: dict) -> "Record":
        """From what Recorder.inspect_take returned."""
        steps = [Step(**{**step, "draft": [Node(**node) for node in step["draft"]]}) for step in taken["steps"]]
        spans = [Span(**span) for span in taken["spans"]]
        return cls(steps, sorted(spans, key=lambda span: span.begin))

    @property
    def decode_steps(self) -> Sequence[Step]:
        """Those after the first token."""
        first = next((index for index, step in enumerate(self.steps) if step.emitted), len(self.steps))
        return self.steps[first + 1 :]

    @property
    def tokens_per_step(self) -> float:
        later = self.decode_steps
        return sum(len(step.emitted) for step in later) / len(later) if later else 1.0

    def tokens(self) -> list[tuple[int, int, str]]:
        """Every emitted token: its id, its step's index, and how it came: "accepted" or "own" (of the target)."""
        return [
            (token, index, "own" if place == len(step.emitted) - 1 else "accepted")
            for index, step in enumerate(self.steps)
            for place, token in enumerate(step.emitted)
        ]
