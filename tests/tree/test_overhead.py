"""What whole steps take, by a clock that the tests turn."""

from vllm_specflash.tree.overhead import LOOK_AGAIN, Kind, Overhead, StepClock

PLAIN, CHAINS, TREES = Kind


class Time:
    def __init__(self):
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def _clock(*steps: tuple[float, int, Kind, float | None]) -> StepClock:
    """After steps of (seconds, requests, kind, foreseen)."""
    time = Time()
    clock = StepClock(time)
    clock.end_step(1, PLAIN, 0.0)
    for seconds, requests, kind, foreseen in steps:
        time.now += seconds
        clock.end_step(requests, kind, foreseen)
    return clock


def _close(found: Overhead, plain: float, verifying: float) -> bool:
    return abs(found.plain - plain) < 1e-9 and abs(found.verifying - verifying) < 1e-9


def test_it_is_what_steps_took_over_what_was_foreseen():
    clock = _clock((3.0, 8, CHAINS, 2.0), (5.0, 8, CHAINS, 2.0), (9.0, 8, CHAINS, 2.0), (1.5, 8, PLAIN, 1.0))
    assert _close(clock.overhead(8, CHAINS), 0.5, 3.0)


def test_one_kind_alone_says_nothing():
    clock = _clock((3.0, 8, CHAINS, 2.0))
    assert clock.overhead(8, CHAINS) == Overhead() and clock.unsure(8)
    clock = _clock((3.0, 8, PLAIN, 2.0))
    assert clock.overhead(8, CHAINS) == Overhead() and not clock.unsure(8)


def test_loads_are_told_apart_by_powers_of_two():
    clock = _clock((3.0, 8, CHAINS, 2.0), (3.0, 8, PLAIN, 1.0))
    assert _close(clock.overhead(15, CHAINS), 2.0, 1.0)
    assert clock.overhead(16, CHAINS) == clock.overhead(7, CHAINS) == Overhead() and not clock.unsure(16)


def test_a_step_that_is_not_learned_from_is_still_where_the_next_begins():
    clock = _clock((50.0, 8, CHAINS, None), (3.0, 8, CHAINS, 2.0), (60.0, 8, PLAIN, None), (3.0, 8, PLAIN, 1.0))
    assert _close(clock.overhead(8, CHAINS), 2.0, 1.0)


def test_before_the_first_end_nothing_is_known_of_a_step():
    clock = StepClock(Time())
    clock.end_step(1, CHAINS, 0.0)
    assert not clock.unsure(1)


def test_chains_and_trees_are_told_apart():
    clock = _clock((3.0, 8, CHAINS, 2.0), (7.0, 8, TREES, 2.0), (1.5, 8, PLAIN, 1.0))
    assert _close(clock.overhead(8, CHAINS), 0.5, 1.0) and _close(clock.overhead(8, TREES), 0.5, 5.0)
    assert clock.overhead(8, TREES) == clock.overhead(15, TREES)


def test_when_to_look():
    clock = _clock((3.0, 8, CHAINS, 2.0))
    assert not clock.time_for(8, CHAINS) and clock.time_for(16, CHAINS) and clock.time_for(8, TREES)
    # Asked for now, whatever becomes of it.
    assert not clock.time_for(8, TREES)
    for _ in range(LOOK_AGAIN + 1):
        clock.end_step(8, TREES, None)
    assert clock.time_for(8, CHAINS) and clock.time_for(8, TREES)
    for _ in range(LOOK_AGAIN + 1):
        clock.end_step(8, TREES, 0.0)
    assert clock.time_for(8, CHAINS) and not clock.time_for(8, TREES)
