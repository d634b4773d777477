"""Of which positions the draft has keys and values, where drafting paused and whole steps were left out."""


class KeptRows:
    """Nothing is noted while steps are left out: a request whose next rows do not begin where its last ones ended has a hole."""

    def __init__(self):
        self._next: dict[str, int] = {}
        self._holes: dict[str, list[tuple[int, int]]] = {}

    def keep(self, req_id: str, start: int, count: int) -> list[tuple[int, int]]:
        """A step keeps rows of `count` positions from `start` on; returns the request's holes before them, as (start, end) in order.

        What a prefix cache held before a request's first rows counts as kept.
        """
        expected = self._next.get(req_id, start)
        self._next[req_id] = start + count
        if start > expected:
            self._holes.setdefault(req_id, []).append((expected, start))
        elif start < expected and req_id in self._holes:
            # Computed anew after a preemption, its rows too.
            holes = [(first, min(end, start)) for first, end in self._holes[req_id] if first < start]
            self._holes[req_id] = holes
        return self._holes.get(req_id, [])

    def forget(self, req_id: str) -> None:
        self._next.pop(req_id, None)
        self._holes.pop(req_id, None)
