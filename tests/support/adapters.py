"""LoRA adapters as `peft` saves them: random, for the tiny targets."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny_models import TEXT

RANK = 8


def random_adapter(
    folder: Path, layers: str = "model.language_model.layers", seed: int = 3, vocab_size: int | None = None
) -> Path:
    """One that changes most answers.

    Args:
        layers: where the target's layers are, by its checkpoint's names.
        vocab_size: the target's, to adapt its lm_head too.
    """
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    size, inner = TEXT["hidden_size"], TEXT["intermediate_size"]
    adapted = {"self_attn.q_proj": (size, size), "mlp.down_proj": (inner, size)}
    names = {
        f"{layers}.{layer}.{module}": shape for layer in range(TEXT["num_hidden_layers"]) for module, shape in adapted.items()
    }
    if vocab_size is not None:
        names["lm_head"] = (size, vocab_size)
    state = {}
    for name, (rows, columns) in names.items():
        state[f"base_model.model.{name}.lora_A.weight"] = 0.1 * torch.randn(RANK, rows, generator=generator)
        state[f"base_model.model.{name}.lora_B.weight"] = 0.1 * torch.randn(columns, RANK, generator=generator)
    save_file(state, folder / "adapter_model.safetensors")
    modules = sorted({name.rpartition(".")[2] for name in names})
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "target_modules": modules, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "r": RANK, "lora_alpha": 2 * RANK}))
    return folder
