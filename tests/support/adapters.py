"""LoRA adapters as `peft` saves them: random, for the tiny targets."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import TEXT

RANK = 8


def random_adapter(folder: Path, layers: str = "model.language_model.layers", seed: int = 3) -> Path:
    """One that changes most answers.

    Args:
        layers: where the target's layers are, by its checkpoint's names.
    """
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    size, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    adapted = {"self_attn.q_proj": (size, size), "mlp.down_proj": (inner, size)}
    state = {}
    for layer in range(TEXT["num_hidden_layers"]):
        for module, (rows, columns) in adapted.items():
            name = f"base_model.model.{layers}.{layer}.{module}"
            state[f"{name}.lora_A.weight"] = 0.1 * torch.randn(RANK, rows, generator=generator)
            state[f"{name}.lora_B.weight"] = 0.1 * torch.randn(columns, RANK, generator=generator)
    save_file(state, folder / "adapter_model.safetensors")
    modules = [module.rpartition(".")[2] for module in adapted]
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": RANK, "lora_alpha": 2 * RANK}))
    return folder
