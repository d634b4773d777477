"""Low-rank updates of the language model, and how they are merged when the checkpoint is assembled."""

import torch
from torch import nn

RANK, SCALE = 16, 2.0
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "down_proj")


class LoraLinear(nn.Module):
    """y = W x + SCALE * B A x with W frozen; A [RANK, in] and B [out, RANK] are kept in float32."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.lora_a = nn.Parameter(torch.randn(RANK, base.in_features) / base.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, RANK))

    def forward(self, x):
        low = nn.functional.linear(x, self.lora_a.to(x.dtype))
        return self.base(x) + nn.functional.linear(low, (SCALE * self.lora_b).to(x.dtype))


def add_lora(model: nn.Module) -> dict[str, nn.Parameter]:
    """Freeze `model` and give every linear layer named in TARGETS an update; returns the trainable parameters by
    name ("model.layers.0.self_attn.q_proj.lora_a", ...), the names of the shipped file."""
    model.requires_grad_(False)
    for name, module in list(model.named_modules()):
        if name.rsplit(".", 1)[-1] in TARGETS:
            parent, leaf = name.rsplit(".", 1)
            setattr(model.get_submodule(parent), leaf, LoraLinear(module))
    return {name: parameter for name, parameter in model.named_parameters() if "lora_" in name}


@torch.no_grad()
def merge_lora(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Add SCALE * B A to the plain linear layers of `model`, in place."""
    for name in weights:
        if name.endswith(".lora_a"):
            stem = name.removesuffix(".lora_a")
            update = weights[f"{stem}.lora_b"].float() @ weights[name].float()
            weight = model.get_submodule(stem).weight
            weight.copy_(weight.float() + SCALE * update)
