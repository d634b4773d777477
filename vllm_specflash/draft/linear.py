"""Layers out of weights that exist already."""

from torch import Tensor, nn


def linear_of(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """The layer of a weight [out, in] and a bias [out], which are no copies."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], device="meta")
    layer.weight, layer.bias = nn.Parameter(weight, False), None if bias is None else nn.Parameter(bias, False)
    return layer
