"""States of other layers than the target's last, as vLLM hands them out and as a draft wants them."""

import pytest
import torch
from torch import nn
from vllm.model_executor.models.interfaces import EagleModelMixin, SupportsEagle3

from vllm_specflash.engine.target_layers import hand_out, in_order


class Layers(nn.Module, EagleModelMixin):
    """Adds 1, then 2, then 3 to its input, in place: as vLLM's norms add to the residual on GPUs."""

    start_layer = 0

    def forward(self, residual):
        told = self._maybe_add_hidden_state([], 0, residual, None)
        for layer in range(1, 4):
            residual.add_(layer)
            self._maybe_add_hidden_state(told, layer, torch.zeros_like(residual), residual)
        return (residual, told) if told else residual


class Model(nn.Module, SupportsEagle3):
    def __init__(self):
        super().__init__()
        self.model = Layers()


@pytest.mark.parametrize("layers", [[0], [2], [2, 0], [1, 2, 0], [2, 1, 2]], ids=str)
def test_a_draft_gets_its_layers_in_its_order(layers):
    target = Model()
    hand_out(target, layers, "folder")
    _, told = target.model(torch.zeros(3, 4))
    inputs = [0.0, 1.0, 3.0]
    assert [states.unique().tolist() for states in in_order(told, layers)] == [[inputs[layer]] for layer in layers]


def test_a_draft_that_sees_one_layer_is_told_nothing_more():
    assert in_order(None, None) == in_order(None, []) == []
