"""The vision tower: CLIP architecture, 256 wide, 6 layers, patch 12 on 96x96 pixels, about 4.8M parameters."""

import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel

from vllm_specflash.lab.demo.canvas import IMAGE, PATCH

HIDDEN = 256


def tower_config() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=HIDDEN,
        intermediate_size=4 * HIDDEN,
        num_hidden_layers=6,
        num_attention_heads=4,
        image_size=IMAGE,
        patch_size=PATCH,
        projection_dim=HIDDEN,
        hidden_act="quick_gelu",
    )


def build_tower() -> CLIPVisionModel:
    return CLIPVisionModel(tower_config())


def pixels(pictures: np.ndarray) -> torch.Tensor:
    """uint8 [n, 96, 96, 3] to the tower's input [n, 3, 96, 96] in -1..1, as the checkpoint's image processor does."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def patch_features(tower: CLIPVisionModel, images: torch.Tensor) -> torch.Tensor:
    """[n, 3, 96, 96] to [n, 64, 256]: the last layer's output without the class token and without the closing norm,
    which is what LLaVA takes with `vision_feature_layer=-1` and the "default" selection."""
    return tower(images, output_hidden_states=True).hidden_states[-1][:, 1:]
