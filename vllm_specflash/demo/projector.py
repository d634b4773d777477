"""Projector from the tower's 256 features to the language model's 576, and the words it is first taught to say.

Warm-up: `python -m vllm_specflash.demo.projector WORK_FOLDER` regresses each patch onto word embeddings, without any
language-model forward: the name of the object under it (or the background's colour) plus the two words of its
place. The language model then reads pictures almost as it reads text, and its LoRA learns quickly. A few minutes on one core;
reads WORK_FOLDER/tower.safetensors, leaves WORK_FOLDER/projector.safetensors.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vllm_specflash.demo.canvas import COLOURS, GRID, IMAGE, UNSURE, cell_of
from vllm_specflash.demo.pictograms import NAMES
from vllm_specflash.demo.pretrain_tower import batch
from vllm_specflash.demo.smollm2 import load_language_model, load_tokenizer
from vllm_specflash.demo.tower import HIDDEN, build_tower, patch_features

PATCH_CELLS = torch.tensor(
    [cell_of((i % GRID + 0.5) * IMAGE / GRID, (i // GRID + 0.5) * IMAGE / GRID) for i in range(GRID * GRID)]
)
STEPS, BATCH, PEAK_LR = 220, 32, 3e-3


class Projector(nn.Module):
    """LLaVA's: Linear(256, 576), GELU, Linear(576, 576); parameter names as in the checkpoint."""

    def __init__(self, width: int = 576):
        super().__init__()
        self.linear_1 = nn.Linear(HIDDEN, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features):
        return self.linear_2(nn.functional.gelu(self.linear_1(features)))


class WordTargets:
    """Ideal visual embeddings: what a patch that shows `label` in place `cell` on `colour` should say.

    The thing's direction (unit mean of its name's word embeddings) and, at half weight each, those of the row and
    column words, scaled to 1.5 times the mean norm of the embedding table.
    """

    def __init__(self, embedding: torch.Tensor, tokenizer):
        table = embedding.float()
        self.scale = 1.5 * table.norm(dim=-1).mean()

        def unit(word):
            return nn.functional.normalize(table[tokenizer(" " + word).input_ids].mean(0), dim=0)

        self.names = torch.stack([unit(name) for name in NAMES])
        self.colours = torch.stack([unit(colour) for colour in COLOURS])
        rows, columns = (
            torch.stack([unit(word) for word in words])
            for words in (("top", "middle", "bottom"), ("left", "center", "right"))
        )
        self.places = 0.5 * (rows[:, None] + columns[None]).reshape(9, -1)

    def __call__(self, labels: torch.Tensor, places: torch.Tensor, colours: torch.Tensor) -> torch.Tensor:
        """Labels, places and colour indices, each int64 [n, 64], to embeddings float32 [n, 64, 576]. Patches that
        are UNSURE speak as background."""
        shows = labels > 0
        thing = torch.where(shows[..., None], self.names[(labels - 1).clamp(min=0)], self.colours[colours])
        cells = torch.where(shows, places.clamp(min=0), PATCH_CELLS)
        return self.scale * (thing + self.places[cells])


def load_tower(folder: Path):
    tower = build_tower()
    tower.load_state_dict(load_file(folder / "tower.safetensors"))
    return tower.eval().requires_grad_(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    targets = WordTargets(load_language_model().get_input_embeddings().weight.detach(), load_tokenizer())
    tower, projector = load_tower(arguments.folder), Projector()
    optimizer = torch.optim.AdamW(projector.parameters(), lr=PEAK_LR, weight_decay=0.0)
    began = time.time()
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = PEAK_LR * min(1, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        images, labels, places, colours = batch(step, BATCH, seed=3)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = patch_features(tower, images).float()
        wanted, sure = targets(labels, places, colours)[labels != UNSURE], labels != UNSURE
        error = (projector(features)[sure] - wanted).square().mean() / wanted.var()
        error.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0 or step == STEPS - 1:
            print(f"step {step} variance explained {1 - error.item():.3f} {time.time() - began:.0f} s", flush=True)
    save_file(projector.state_dict(), arguments.folder / "projector.safetensors")


if __name__ == "__main__":
    main()
