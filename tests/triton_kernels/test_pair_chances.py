"""pair_chances: candidates' chances move among each other, what lies outside them keeps its own, NaN is no chance."""

import pytest
import torch

from vllm_specflash.triton_kernels.pair_chances import pair_chances, pair_chances_triton


def arguments(requests=2, positions=4, width=5, dtype=torch.float32):
    chance = torch.rand(requests, positions, width + 3).softmax(-1)[..., :width].contiguous()
    return chance, torch.randn(requests, positions - 1, width, width).to(dtype)


def test_the_formula_of_one_pair():
    chance, delta = torch.tensor([[[0.5, 0.2], [0.4, 0.1]]]), torch.zeros(1, 1, 2, 2)
    delta[0, 0, 1, 0] = 1.0
    first, following = pair_chances(chance, delta)
    assert torch.equal(first, chance[:, 0])
    assert torch.equal(following[0, 0, 0], chance[0, 1])
    e = torch.tensor(1.0).exp()
    torch.testing.assert_close(following[0, 0, 1], torch.tensor([0.4 * e, 0.1]) / (0.4 * e + 0.1 + 0.5))


@pytest.mark.kernel
@pytest.mark.parametrize("requests, positions, width", [(3, 5, 32), (1, 2, 7), (2, 4, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_kernel_agrees_with_torch_path(on_device, requests, positions, width, dtype):
    args = arguments(requests, positions, width, dtype)
    for part, expected in zip(pair_chances_triton(*(on_device(x) for x in args)), pair_chances(*args)):
        torch.testing.assert_close(part.cpu(), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.kernel
def test_nonsense_is_no_chance(on_device):
    chance, delta = arguments()
    chance[0], delta[1, 0] = torch.nan, torch.nan
    for first, following in (pair_chances(chance, delta), pair_chances_triton(on_device(chance), on_device(delta))):
        assert not first.isnan().any() and not following.isnan().any()
        assert not first[0].any() and not following[0].any() and not following[1, 0].any()
        assert following[1, 1:].gt(0).all()
