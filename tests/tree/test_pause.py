"""Drafting rests where it does not pay, longer each time, and no longer than the load lasts."""

from vllm_specflash.tree.pause import FIRST, FRUITLESS, LONGEST, LOOK, Pause, Typical


def _tries(pause: Pause, gain: float, requests: int) -> int:
    """Steps with drafts of this gain until the next pause."""
    for tried in range(1000):
        if pause.steps:
            return tried
        pause.weigh(gain, requests)
    return 1000


def _rest(pause: Pause) -> int:
    rested = 0
    while pause.take_step():
        rested += 1
    return rested


def test_pauses_grow_while_drafting_does_not_pay():
    pause = Pause()
    _tries(pause, 0.9, 16)
    rests = []
    for _ in range(7):
        rests.append(_rest(pause))
        assert _tries(pause, 0.9, 16) < 10
    assert rests == [FIRST * 2**k for k in range(5)] + [LONGEST] * 2


def test_drafting_that_pays_never_rests():
    pause = Pause()
    assert _tries(pause, 1.05, 1) == 1000 and not pause.take_step()


def test_after_it_paid_the_next_pause_is_short():
    pause = Pause()
    for _ in range(4):
        _tries(pause, 0.5, 8)
        _rest(pause)
    for _ in range(50):
        pause.weigh(2.0, 8)
    _tries(pause, 0.5, 8)
    assert _rest(pause) == FIRST


def test_a_pause_ends_with_the_load_that_began_it():
    pause = Pause()
    _tries(pause, 0.8, 16)
    pause.ease(9)
    assert pause.steps
    pause.ease(8)
    assert not pause.take_step()


def test_steps_without_drafts_are_looked_at_where_none_was_timed():
    pause = Pause()
    pause.weigh(5.0, 8)
    assert not pause.steps
    pause.weigh(5.0, 8, unsure=True)
    assert _rest(pause) == LOOK


def test_a_look_makes_no_pause_longer():
    pause = Pause()
    pause.weigh(1.2, 8, unsure=True)
    assert _rest(pause) == LOOK
    _tries(pause, 0.5, 8)
    assert _rest(pause) == FIRST


def test_a_stall_is_not_what_a_draft_usually_takes():
    typical = Typical(last=5)
    assert typical.value == 0
    typical.add(9.0)
    typical.add(0.3)
    assert typical.value == 0.3
    for seconds in (0.1, 0.2, 9.0, 9.0):
        typical.add(seconds)
    # 9 has left; of 0.3, 0.1, 0.2, 9, 9 the middle one.
    assert typical.value == 0.3
    typical.add(9.0)
    assert typical.value == 9.0


def test_a_step_that_pays_makes_no_pause_one_for_copies():
    """Drafts have not paid for long: without copies, the next pause is as long as before."""
    pause = Pause()
    for _ in range(3):
        while not pause.steps:
            pause.weigh(0.9, 8)
        _rest(pause)
    while not pause.steps:
        pause.weigh(1.01, 8, copies=1.3)
    before = pause.steps
    for _ in range(2 * FRUITLESS):
        pause.copied(False)
    assert pause.steps == before > FIRST


def test_a_look_at_plain_steps_is_no_pause_for_copies():
    pause = Pause()
    for _ in range(40):
        if not pause.steps:
            pause.weigh(1.5, 8, copies=3.0)
    assert pause.steps
    _rest(pause)
    for _ in range(FRUITLESS):
        pause.copied(False)
    pause.weigh(1.5, 1, unsure=True)
    pause.copied(False)
    assert pause.steps == LOOK
