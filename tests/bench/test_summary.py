import pytest

from vllm_specflash.lab.bench.records import Drafts, Output, Pass, Steps
from vllm_specflash.lab.bench.summary import Row, Spread, acceptance_per_position, speed_up, step_parts
from vllm_specflash.lab.bench.tables import limit_table


def output(tokens: int, seconds: float) -> Output:
    return Output("a", list(range(tokens)), "", first_seconds=0.5, decode_seconds=seconds)


def test_decode_time_leaves_the_first_token_out_and_weighs_tokens_alike():
    done = Pass([output(11, 1.0), output(31, 6.0)], wall_seconds=8.4, steps=Steps(), drafts=Drafts())
    assert done.decode_seconds_per_token == pytest.approx(7.0 / 40)
    assert done.seconds_per_token == pytest.approx(8.4 / 42)
    assert done.mean_length == 21


def test_tau_counts_tokens_after_the_first_per_target_forward():
    done = Pass([output(13, 1.0)], 2.0, Steps(request_steps=4), Drafts())
    assert done.acceptance_length == 3.0


def test_an_answer_of_one_token_divides_by_nothing():
    done = Pass([output(1, 0.0)], 1.0, Steps(), Drafts())
    assert done.decode_seconds_per_token == 0.0
    assert done.acceptance_length == 1.0


def test_speed_ups_pair_passes_of_the_same_repeat():
    # A machine that slows down by half in the second repeat: the ratio does not.
    assert speed_up([2.0, 4.0, 2.0], [1.0, 2.0, 0.5]) == Spread(2.0, 2.0, 4.0)


def test_a_repeat_that_only_one_method_made_is_left_out():
    assert speed_up([2.0, 4.0], [1.0]) == Spread(2.0, 2.0, 2.0)


def test_spread_is_median_with_extremes():
    assert Spread.of([3.0, 1.0, 10.0, 2.0]) == Spread(2.5, 1.0, 10.0)


def test_parts_of_a_step_add_up_to_its_wall_time():
    parts = step_parts(
        {"steps": 10, "wall_seconds": 0.2, "worker_seconds": 0.17, "forward_seconds": 0.1, "draft_seconds": 0.04,
         "network_seconds": 0.03}  # fmt: skip
    )
    assert parts.pop("wall") == pytest.approx(20.0)
    assert sum(parts.values()) == pytest.approx(20.0)
    assert parts["draft host"] == pytest.approx(1.0)
    assert parts["sampling"] == pytest.approx(3.0)


def test_acceptance_by_position_is_a_share_of_drafts():
    assert acceptance_per_position({"drafts": 10, "accepted_per_position": [9, 5, 0, 0]}) == [0.9, 0.5]
    assert acceptance_per_position({"drafts": 0, "accepted_per_position": []}) == []


def test_what_keeps_from_the_limit_is_named_in_milliseconds():
    def row(method: str, tau: float, wall: float, forward: float, network: float) -> Row:
        step = {"wall": wall, "target forward": forward, "draft network": network}
        return Row("demo", "scenes", 8, method, 1, 90.0, Spread.of([1.0]), Spread.of([1.0]), None, None, tau, [], step)

    plain, alone = row("plain", 1.0, 10.0, 9.0, 0.0), row("alone", 2.0, 10.0, 9.0, 0.0)
    table = limit_table([plain, row("specflash", 6.0, 20.0, 16.0, 3.0)])
    assert [list(column.cells) for column in table.columns[3:]] == [["6.00x"], ["3.00x"], ["+7.00"], ["+3.00"]]
    assert limit_table([alone]).row_count == 0
