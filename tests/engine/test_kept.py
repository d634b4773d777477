"""Which positions the draft has rows of, told from where the steps that kept some began and ended."""

from vllm_specflash.engine.v1.kept import KeptRows


def test_steps_that_follow_each_other_leave_no_hole():
    kept = KeptRows()
    assert [kept.keep("r", start, 3) for start in (10, 13, 16)] == [[], [], []]


def test_what_steps_left_out_is_a_hole_from_then_on():
    kept = KeptRows()
    kept.keep("r", 0, 10)
    assert kept.keep("r", 14, 2) == [(10, 14)]
    assert kept.keep("r", 16, 1) == [(10, 14)]
    assert kept.keep("r", 20, 1) == [(10, 14), (17, 20)]
    assert kept.keep("other", 20, 1) == []


def test_what_a_preempted_request_computes_anew_is_no_hole_any_more():
    kept = KeptRows()
    kept.keep("r", 0, 10)
    kept.keep("r", 14, 2)
    kept.keep("r", 20, 1)
    # The prefix cache had all up to 12, holes included.
    assert kept.keep("r", 12, 9) == [(10, 12)]
    assert kept.keep("r", 21, 1) == [(10, 12)]
    assert kept.keep("r", 0, 22) == []


def test_a_request_that_ended_is_forgotten():
    kept = KeptRows()
    kept.keep("r", 0, 10)
    kept.keep("r", 14, 2)
    kept.forget("r")
    assert kept.keep("r", 30, 1) == []
