"""What was drafted last for each request, laid out as the next step verifies it."""

import numpy as np

from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.v1.attention import BlockAllowance
from vllm_specflash.tree.build import Trees
from vllm_specflash.tree.layout import lay_out
from vllm_specflash.tree.step import Draft


class Drafted:
    """By request id."""

    def __init__(self, stats: DraftStats):
        self._stats = stats
        self._drafts: dict[str, Draft] = {}
        self._stops: dict[str, set[int]] = {}

    def expect(self, req_id: str, stops: set[int]) -> None:
        """A request, and the tokens that end its answer.

        They are never drafted. That costs no step, since the target says them after what is; and of a session that goes on after them vLLM
        would keep as read what was drafted behind.
        """
        self._stops[req_id] = stops

    def of(self, req_id: str, length: int) -> Draft:
        """The tree of a request's first `length` drafted tokens, as it was proposed."""
        draft = self._drafts.get(req_id)
        if length and draft is not None and length < len(draft.parents):
            return draft.cut(length)
        return Draft.chain(length)

    def forget(self, req_id: str) -> None:
        self._drafts.pop(req_id, None)
        self._stops.pop(req_id, None)

    def some(self, req_ids: list[str]) -> dict[str, Draft]:
        """Those of these requests."""
        return {req_id: self._drafts[req_id] for req_id in req_ids}

    def update(self, drafts: dict[str, Draft]) -> None:
        self._drafts.update(drafts)

    def trees(
        self, req_ids: list[str], tokens: list[list[int]], trees: Trees, kept: np.ndarray, roots: np.ndarray, allowance: BlockAllowance | None
    ) -> list[list[int]]:
        """Q requests' tokens, path by path as far as they can be verified.

        tokens [Q, n] of the trees' nodes; kept [Q, n] bool, nodes to verify, none without its parent; roots [Q] target position of each
        tree's root; allowance: of side paths, None where none has any.
        """
        parents, chances, depth = trees.parent.tolist(), trees.conditional.tolist(), trees.depth.tolist()
        drafts = []
        for q, req_id in enumerate(req_ids):
            stops, index = self._stops.get(req_id, ()), {-1: -1}
            for node in np.flatnonzero(kept[q]).tolist():
                if tokens[q][node] not in stops and parents[q][node] in index:
                    index[node] = len(index) - 1
            nodes = [node for node in index if node >= 0]
            order, above = lay_out([index[parents[q][node]] for node in nodes])
            starts, n = [i for i, parent in enumerate(above) if parent != i], len(nodes)
            if starts:
                n = allowance.take(n, starts, int(roots[q]), max(depth[q][node] for node in nodes))
                self._stats.branching += starts[0] < n
            laid = [nodes[i] for i in order[:n]]
            drafts.append([tokens[q][node] for node in laid])
            self._drafts[req_id] = Draft([-1, *above[:n]], [np.nan, *(chances[q][node] for node in laid)])
        return drafts

    def chains(self, req_ids: list[str], tokens: list[list[int]], chances: list[list[float]], lengths: list[int]) -> list[list[int]]:
        """The same of Q chains: the first lengths [Q] of tokens [Q, n], each of which has its chance after the one before."""
        drafts = []
        for req_id, own, chance, length in zip(req_ids, tokens, chances, lengths):
            stops = self._stops.get(req_id, ())
            length = next((place for place, token in enumerate(own[:length]) if token in stops), length)
            drafts.append(own[:length])
            self._drafts[req_id] = Draft(list(range(-1, length)), [np.nan, *chance[:length]])
        return drafts
