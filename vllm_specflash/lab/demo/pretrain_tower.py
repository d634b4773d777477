"""Pretrain the vision tower alone on dense labels: `python -m vllm_specflash.lab.demo.pretrain_tower WORK_FOLDER`.

Each of the 64 patches says which object lies under it (or nothing), in which of the nine places that object's middle
is, and what the background colour is. Crowded pictures (up to nine objects) teach far more per step than the
demo's own scenes with up to four. One core, about 15 minutes; checkpoints every 100 steps and resumes from the last.
Leaves WORK_FOLDER/tower.safetensors.
"""

import argparse
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo.canvas import CELL, COLOURS, IMAGE, UNSURE, Placed, draw_with_labels
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.tower import HIDDEN, build_tower, patch_features, pixels

BATCH, STEPS, WARMUP, PEAK_LR = 32, 2200, 150, 8e-4


class DenseHeads(nn.Module):
    """What is asked of every patch during pretraining; thrown away afterwards."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(HIDDEN)
        self.object = nn.Linear(HIDDEN, len(NAMES) + 1)
        self.place = nn.Linear(HIDDEN, 9)
        self.colour = nn.Linear(HIDDEN, len(COLOURS))

    def forward(self, features):
        features = self.norm(features)
        return self.object(features), self.place(features), self.colour(features)


def crowded_scene(rng: np.random.Generator) -> tuple[list[Placed], str]:
    """One to nine objects near the middles of different places, or one to four anywhere without touching."""
    colour = COLOURS[rng.integers(len(COLOURS))]
    if rng.random() < 0.6:
        count = rng.integers(1, 10)
        cells = rng.permutation(9)[:count]
        spots = [(c % 3 * CELL + 16 + rng.uniform(-3, 3), c // 3 * CELL + 16 + rng.uniform(-3, 3)) for c in cells]
    else:
        spots = []
        for x, y in rng.uniform(14, IMAGE - 14, (rng.integers(3, 9), 2)):
            if all(max(abs(x - a), abs(y - b)) > 29 for a, b in spots):
                spots.append((x, y))
    names = rng.permutation(len(NAMES))[: len(spots)]
    return [Placed(NAMES[n], x, y, int(rng.integers(24, 32))) for n, (x, y) in zip(names, spots)], colour


def batch(step: int, size: int, seed: int = 1):
    """Deterministic in (seed, step), so that a resumed run sees what an unbroken one would have."""
    rng = np.random.default_rng([seed, step])
    pictures, labels, places, colours = [], [], [], []
    for _ in range(size):
        placed, colour = crowded_scene(rng)
        picture, label, place = draw_with_labels(placed, colour, rng)
        pictures.append(picture), labels.append(label), places.append(place), colours.append(COLOURS.index(colour))
    return (
        pixels(np.stack(pictures)),
        torch.from_numpy(np.stack(labels)),
        torch.from_numpy(np.stack(places)),
        torch.tensor(colours)[:, None].expand(-1, 64),
    )


def dense_losses(tower, heads, images, labels, places, colours):
    """Cross-entropies (object, place, colour) and the accuracy over patches that show an object."""
    with torch.autocast("cpu", torch.bfloat16):
        features = patch_features(tower, images)
    objects, where, shade = heads(features.float())
    losses = (
        F.cross_entropy(objects.flatten(0, 1), labels.flatten(), ignore_index=UNSURE),
        F.cross_entropy(where.flatten(0, 1), places.flatten(), ignore_index=UNSURE),
        F.cross_entropy(shade.flatten(0, 1), colours.flatten()),
    )
    shown = labels > 0
    return losses, (objects.argmax(-1) == labels)[shown].float().mean().item()


def learning_rate(step: int) -> float:
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    done = (step - WARMUP) / (STEPS - WARMUP)
    return PEAK_LR * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))


@one_sentence_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    folder = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    tower, heads = build_tower().train(), DenseHeads()
    parameters = [*tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.02)
    start, checkpoint = 0, folder / "tower.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint)
        tower.load_state_dict(state["tower"]), heads.load_state_dict(state["heads"])
        optimizer.load_state_dict(state["optimizer"])
        start = state["step"]
    began = time.time()
    for step in range(start, STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        (objects, where, shade), accuracy = dense_losses(tower, heads, *batch(step, BATCH))
        (objects + 0.3 * where + 0.2 * shade).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 20 == 0:
            print(
                f"step {step} object {objects:.3f} place {where:.3f} colour {shade:.3f} accuracy {accuracy:.3f} "
                f"{time.time() - began:.0f} s",
                flush=True,
            )
        if (step + 1) % 100 == 0:
            state = {"tower": tower.state_dict(), "heads": heads.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step + 1}, checkpoint.with_suffix(".tmp"))
            os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
    tower.eval()
    with torch.no_grad():
        (objects, where, shade), accuracy = dense_losses(tower, heads, *batch(0, 256, seed=2))
    print(f"held out: object {objects:.4f} place {where:.4f} colour {shade:.4f} accuracy {accuracy:.4f}")
    save_file(tower.state_dict(), folder / "tower.safetensors")


if __name__ == "__main__":
    main()
