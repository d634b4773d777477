"""The draft's matrix products on CPUs, by the kernels that vLLM has for the target's.

They want a weight packed, once. torch's own take two to four times as long at the few rows of a drafting step.
"""

from torch import Tensor, nn
from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm


def pack(module: nn.Module) -> None:
    """Have every nn.Linear in a module on a CPU, itself included, compute so. Their weights are empty afterwards."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            _pack(layer)


def compute_by(layer: nn.Linear, packed: nn.Module) -> None:
    """The same for a layer without a bias whose weight is the first rows of that of one of the target's, which vLLM has packed."""
    layer.forward = lambda x: packed.cpu_linear(x, packed.weight, None)[..., : layer.out_features]


def _pack(layer: nn.Linear) -> None:
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)

    def forward(x: Tensor) -> Tensor:
        # Not every one of those kernels takes no rows at all.
        return layer.cpu_linear(x, layer.weight, layer.bias) if len(x) else x.new_empty(*x.shape[:-1], layer.out_features)

    layer.forward = forward
