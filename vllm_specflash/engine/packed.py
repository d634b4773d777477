"""The draft's matrix products on CPUs, by the kernels that vLLM has for the target's.

They want a weight packed, once; torch's own do without and are slower at the few rows of a drafting step.
"""

from torch import Tensor, nn


def pack(module: nn.Module) -> None:
    """Have every nn.Linear in a module on a CPU, itself included, compute so. Their weights are empty afterwards."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            _pack(layer)


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


def _pack(layer: nn.Linear) -> None:
    # GPUs' workers import this file too.
    from vllm.model_executor.layers.utils import dispatch_cpu_unquantized_gemm

    dtype = layer.weight.dtype
    dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    # What vLLM before 0.32 leaves in its place is of another dtype; what a draft computes in is read off its weights.
    layer.weight.data = layer.weight.data.to(dtype)

    def forward(x: Tensor) -> Tensor:
        if not len(x):
            # A step of a picture alone; the kernel for CPUs with AMX ends the process then (a division by zero).
            return x.new_empty(*x.shape[:-1], layer.out_features)
        # Before vLLM 0.32 not every kernel takes more dimensions than two.
        return layer.cpu_linear(x.flatten(0, -2), layer.weight, layer.bias).unflatten(0, x.shape[:-1])

    layer.forward = forward
