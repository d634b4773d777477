import pytest
import torch

from vllm_specflash.lab.bench.identity import Agreement, compare, first_difference, logit_gaps, logit_step
from vllm_specflash.lab.bench.records import Output


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("logit", [0.37, 1.0, 17.25, -23.5, 130.0])
def test_logit_step_is_the_distance_to_the_next_number(dtype, logit):
    kind = getattr(torch, dtype)
    here = torch.tensor(abs(logit), dtype=kind)
    above = torch.nextafter(here, torch.tensor(float("inf"), dtype=kind))
    assert logit_step(logit, dtype) == (above.double() - here.double()).item()


def test_an_eighth_at_sixteen_is_one_step_of_bfloat16():
    assert logit_gaps([[16.0, 16.125], [16.5, 16.0]], "bfloat16") == [1.0, 4.0]


def test_gaps_ignore_the_order_and_all_but_the_two_best():
    assert logit_gaps([[3.0, 17.0, 16.0]], "bfloat16") == [8.0]


def test_first_difference():
    assert first_difference([1, 2, 3], [1, 2, 3]) is None
    assert first_difference([1, 2, 3], [1, 5, 3]) == 1
    assert first_difference([1, 2], [1, 2, 3]) == 2


def answer(prompt_id: str, token_ids: list[int], gaps: list[float] | None = None) -> Output:
    return Output(prompt_id, token_ids, "", 0.0, 0.0, gaps=gaps)


def test_differences_carry_the_references_gap():
    reference = {"a": answer("a", [1, 2, 3], [9.0, 1.0, 9.0]), "b": answer("b", [1, 2], [9.0, 9.0])}
    agreement = compare(reference, [answer("a", [1, 7, 3]), answer("b", [1, 2]), answer("unasked", [1])])
    assert (agreement.identical, agreement.compared) == (1, 2)
    assert [(d.prompt_id, d.position, d.gap) for d in agreement.differences] == [("a", 1, 1.0)]
    assert agreement.explained


def test_a_wide_gap_or_an_unknown_one_explains_nothing():
    reference = {"a": answer("a", [1, 2], [9.0, 2.5]), "b": answer("b", [1, 2])}
    assert not compare(reference, [answer("a", [1, 3])]).explained
    assert not compare(reference, [answer("b", [1, 3])]).explained
    assert Agreement(0, 0, []).explained
