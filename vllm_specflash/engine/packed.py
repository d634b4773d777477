"""The draft's matrix products and norms on CPUs, by the kernels that vLLM has for the target's.

Products want a weight packed, once; torch's own do without and are slower at the few rows of a drafting step. A norm is one operation instead
of eight.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from vllm_specflash.draft.head import Selector
from vllm_specflash.draft.linear import linear_of

# Numbers that vLLM's kernel of a norm takes at a time; other widths than multiples of it are refused there.
VECTOR = 16


def pack(module: nn.Module) -> None:
    """Have all layers in a module on a CPU, itself included, compute so. The weights of every nn.Linear are empty afterwards."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            _pack(layer)
        elif isinstance(layer, nn.RMSNorm) and hasattr(torch.ops._C, "rms_norm") and layer.weight.numel() % VECTOR == 0:
            _fuse(layer)
        elif isinstance(layer, Selector):
            layer.of_tokens, layer.of_seen = (_packed(weight.data.clone()) for weight in (layer.token_weight, layer.out_weight))


def unmap(module: nn.Module) -> None:
    """Copy a module's weights out of the file that they were read from: it stays in memory, whole, while one of them lies in it."""
    for layer in module.modules():
        for weight in layer.parameters(recurse=False):
            weight.data = weight.data.clone()
        for name, table in layer.named_buffers(recurse=False):
            # Not its data alone: as a view of a tensor in the file it would keep that one.
            layer.register_buffer(name, table.clone())


def compute_by(layer: nn.Linear, packed: nn.Module) -> None:
    """The same for a layer without a bias whose weight is the first rows of that of one of the target's, which vLLM has packed."""
    layer.forward = lambda x: packed.cpu_linear(x, packed.weight, None)[..., : layer.out_features]


def _packed(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """The product with a weight that is no layer's."""
    layer = linear_of(weight)
    _pack(layer)
    return layer.forward


def _pack(layer: nn.Linear) -> None:
    # GPUs' workers import this file too.
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dtype = layer.weight.dtype
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    # What vLLM before 0.32 leaves in its place is of another dtype; what a draft computes in is read off its weights.
    layer.weight.data = layer.weight.data.to(dtype)
    weight, bias = layer.weight, layer.bias

    def forward(x: Tensor) -> Tensor:
        if not len(x):
            # A step of a picture alone; the kernel for CPUs with AMX ends the process then (a division by zero).
            return x.new_empty(*x.shape[:-1], layer.out_features)
        if x.dim() == 2:
            return layer.cpu_linear(x, weight, bias)
        # Before vLLM 0.32 not every kernel takes more dimensions than two.
        return layer.cpu_linear(x.flatten(0, -2), weight, bias).unflatten(0, x.shape[:-1])

    layer.forward = forward


def _fuse(norm: nn.RMSNorm) -> None:
    def forward(x: Tensor) -> Tensor:
        out = torch.empty_like(x, memory_format=torch.contiguous_format)
        torch.ops._C.rms_norm(out, x.contiguous(), norm.weight, norm.eps)
        return out

    norm.forward = forward
