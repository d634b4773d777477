"""Projector from the tower's 256 features to the language model's 576, and the words it is first taught to say.

Warm-up: `python -m vllm_specflash.lab.demo.projector WORK_FOLDER` regresses each patch onto word embeddings, without any
language-model forward: the name of the object under it (or the background's colour) plus the two words of its
place. The language model then reads pictures almost as it reads text, and its LoRA learns quickly. Two minutes on one core;
reads WORK_FOLDER/tower.safetensors, leaves WORK_FOLDER/projector.safetensors.
"""

import argparse
import math
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo.canvas import COLOURS, GRID, IMAGE, UNSURE, cell_of
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.parts import PROJECTOR, TOWER, tensors_of
from vllm_specflash.lab.demo.pretrain_tower import batch
from vllm_specflash.lab.demo.smollm2 import load_language_model, load_tokenizer
from vllm_specflash.lab.demo.tower import HIDDEN, build_tower, patch_features

PATCH_CELLS = torch.tensor(
    [cell_of((i % GRID + 0.5) * IMAGE / GRID, (i // GRID + 0.5) * IMAGE / GRID) for i in range(GRID * GRID)]
)
PICTURES = 2048
STEPS, BATCH, PEAK_LR, OBJECT_WEIGHT = 500, 4096, 2e-3, 3.0


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

    def __call__(self, labels, places, colours, cells) -> torch.Tensor:
        """Labels, places, colour indices and the patches' own cells, int64 [p] each, to embeddings float32 [p, 576]."""
        shows = labels > 0
        thing = torch.where(shows[..., None], self.names[(labels - 1).clamp(min=0)], self.colours[colours])
        return self.scale * (thing + self.places[torch.where(shows, places.clamp(min=0), cells)])


def load_tower(folder: Path):
    tower = build_tower()
    tower.load_state_dict(tensors_of(folder / TOWER))
    return tower.eval().requires_grad_(False)


def labelled_features(tower) -> tuple[torch.Tensor, ...]:
    """Patches of PICTURES crowded pictures, edges left out: features float32 [p, 256], labels, places, colours and
    each patch's own cell, int64 [p]."""
    parts = []
    for step in range(PICTURES // 64):
        images, labels, places, colours = batch(step, 64, seed=3)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            features = patch_features(tower, images).float()
        sure = labels != UNSURE
        cells = PATCH_CELLS.expand_as(labels)
        parts.append([each[sure] for each in (features, labels, places, colours, cells)])
    return tuple(torch.cat(part) for part in zip(*parts))


def fit(projector: Projector, features: torch.Tensor, wanted: torch.Tensor, shows: torch.Tensor) -> None:
    """Regress features [p, 256] onto wanted embeddings [p, 576]; patches that show an object (bool [p]) count
    OBJECT_WEIGHT times, since 113 names are harder to tell apart than eight colours."""
    optimizer = torch.optim.AdamW(projector.parameters(), lr=PEAK_LR, weight_decay=0.0)
    spread, began = wanted[shows].var(), time.time()
    for step in range(STEPS):
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.param_groups[0]["lr"] = PEAK_LR * min(1, (step + 1) / 10) * decay
        drawn = torch.randint(len(features), (BATCH,))
        error = (projector(features[drawn]) - wanted[drawn]).square().mean(-1)
        (error * torch.where(shows[drawn], OBJECT_WEIGHT, 1.0)).mean().div(spread).backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == STEPS - 1:
            explained = 1 - (error[shows[drawn]].mean() / spread).item()
            print(f"step {step} variance of objects explained {explained:.3f} {time.time() - began:.0f} s", flush=True)


@one_sentence_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    targets = WordTargets(load_language_model().get_input_embeddings().weight.detach(), load_tokenizer())
    features, labels, places, colours, cells = labelled_features(load_tower(arguments.folder))
    projector = Projector()
    fit(projector, features, targets(labels, places, colours, cells), labels > 0)
    save_file(projector.state_dict(), arguments.folder / PROJECTOR)


if __name__ == "__main__":
    main()
