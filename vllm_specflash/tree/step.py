"""The trees that one step verifies: every request's rows, chains and plain decodes among them, as one flat list of nodes."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vllm_specflash.triton_kernels.loops import compiled


@dataclass(frozen=True)
class Draft:
    """One request's tree as it was proposed, root included.

    Attributes:
        parents: [n + 1] index of every node's parent, -1 at the root.
        chances: [n + 1] as in StepTrees.
    """

    parents: list[int]
    chances: list[float]

    @classmethod
    def chain(cls, length: int) -> "Draft":
        """Nothing is known of it but its length."""
        return cls(list(range(-1, length)), [np.nan] * (length + 1))

    def cut(self, length: int) -> "Draft":
        """The first `length` drafted nodes."""
        return Draft(self.parents[: length + 1], self.chances[: length + 1])


@dataclass(frozen=True)
class StepTrees:
    """R requests in batch order; N nodes, each request's root first (a request without a draft has just that).

    Attributes:
        counts: [R] nodes of each request.
        parents: [N] index of the parent within the request's tree, -1 at the root.
        chances: [N] chance the draft gave each token after its parent; NaN where it said none.
    """

    counts: np.ndarray
    parents: np.ndarray
    chances: np.ndarray

    @classmethod
    def of(cls, drafts: "list[Draft]") -> "StepTrees":
        """Of each request's draft, in batch order."""
        return cls(
            np.array([len(draft.parents) for draft in drafts], np.int64),
            np.array([parent for draft in drafts for parent in draft.parents], np.int64),
            np.array([chance for draft in drafts for chance in draft.chances], np.float64),
        )

    @cached_property
    def first(self) -> np.ndarray:
        """[R] where each request's nodes begin."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def request(self) -> np.ndarray:
        """[N] whose node it is."""
        return np.repeat(np.arange(len(self.counts)), self.counts)

    @cached_property
    def index(self) -> np.ndarray:
        """[N] index within its tree."""
        return np.arange(len(self.parents)) - self.first[self.request]

    @cached_property
    def starts_path(self) -> np.ndarray:
        """[N] whether a side path begins here: the parent is not the node before. Never true of roots."""
        return self.parents != self.index - 1

    def rows(self, scheduled: np.ndarray) -> np.ndarray:
        """[N] where the nodes lie in a batch of scheduled[R] rows a request: they are the last of each."""
        return (np.cumsum(scheduled) - self.counts)[self.request] + self.index

    @cached_property
    def branches(self) -> bool:
        """Whether any request's draft is more than a chain."""
        return bool(self.starts_path.any())

    @cached_property
    def depth(self) -> np.ndarray:
        """[N], 0 at roots."""
        return (self.ancestors >= 0).sum(1) - 1

    @cached_property
    def ancestors(self) -> np.ndarray:
        """[N, deepest + 1] flat nodes on the way up, the node itself first, padded with -1."""
        up = np.where(self.parents >= 0, self.first[self.request] + self.parents, -1)
        levels, at = [np.arange(len(up))], np.arange(len(up))
        while True:
            # -1 reads the last node, and is put back.
            at = np.where(at >= 0, up[at], -1)
            if not (at >= 0).any():
                return np.stack(levels, 1)
            levels.append(at)

    def observations(self, lengths: np.ndarray, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the target said about nodes whose parents it accepted: the draft's chances [T], and whether it took them.

        lengths [R] and nodes [R, W] are of tree_accept.
        """
        said, taken = np.empty(len(self.parents)), np.empty(len(self.parents), bool)
        observed = _observe(
            self.counts, self.parents, self.chances, np.asarray(lengths, np.int32), np.asarray(nodes, np.int32), said, taken
        )
        return said[:observed], taken[:observed]


@compiled("int64(int64[:], int64[:], float64[:], int32[:], int32[:, :], float64[::1], boolean[::1])")
def _observe(counts, parents, chances, lengths, nodes, said, taken):
    """Fills said and taken, and returns how many there are."""
    first, observed = 0, 0
    for request in range(len(counts)):
        accepted = np.zeros(max(counts[request], 1), np.bool_)
        accepted[0] = True
        for level in range(min(lengths[request], nodes.shape[1])):
            # Nothing here checks bounds.
            if 0 < nodes[request, level] < counts[request]:
                accepted[nodes[request, level]] = True
        for node in range(1, counts[request]):
            chance = chances[first + node]
            # NaN where the draft said nothing.
            if accepted[parents[first + node]] and chance == chance:
                said[observed], taken[observed] = chance, accepted[node]
                observed += 1
        first += counts[request]
    return observed
