"""Training examples for the language model: one visual prefix and several independent turns that share it.

Each turn sees the pictures and itself only, with positions that follow the pictures directly, so every turn is
exactly the single-turn conversation that a user holds; sharing the prefix is what makes training affordable.
"""

from dataclasses import dataclass

import numpy as np
import torch

from vllm_specflash.lab.demo import clip_language, scene_language, sheet_language
from vllm_specflash.lab.demo.canvas import COLOURS, GRID
from vllm_specflash.lab.demo.clips import sample_clip
from vllm_specflash.lab.demo.scenes import sample_scene
from vllm_specflash.lab.demo.sheets import sample_sheet
from vllm_specflash.lab.demo.split import sample_in

IMAGE_TOKENS = GRID * GRID
IMAGE_TOKEN = "<image>"
IMAGE_TOKEN_ID = 16  # SmolLM2's "<empty_output>", which nothing uses, renamed
CLIP_FRAMES = (4, 4, 4, 5, 5, 6, 6, 7, 8, 8)  # long clips are dear: fewer of them


@dataclass
class Example:
    """Token ids and positions [L], the turn of each token (0 for the shared prefix), and which tokens are to be
    predicted; pictures [n, 96, 96, 3] uint8 with patch labels and places [n, 64] and the background's index."""

    tokens: np.ndarray
    positions: np.ndarray
    turns: np.ndarray
    wanted: np.ndarray
    pictures: np.ndarray
    labels: np.ndarray
    places: np.ndarray
    colour: int


def example(kind: str, rng: np.random.Generator, tokenizer, split: str = "target", frames: int = 0) -> Example:
    """A "scene" with a description in detail, a caption and three questions; a "clip" with one more caption and three
    more questions, as its long visual prefix is worth many turns; or a "sheet" of `frames` pages that is read out twice."""
    if kind == "sheet":
        drawn = sample_in(split, lambda r: sample_sheet(r, (frames,)), rng)
        asked = [sheet_language.reading(drawn, rng) for _ in range(2)]
        asked += [sheet_language.question(drawn, rng) for _ in range(2)]
    else:
        if kind == "scene":
            drawn, language, captions, questions = sample_in(split, sample_scene, rng), scene_language, 1, 3
        else:
            drawn, language = sample_in(split, lambda r: sample_clip(r, (frames,)), rng), clip_language
            captions, questions = 2, 6
        asked = [language.detailed(drawn, rng), *(language.caption(drawn, rng) for _ in range(captions))]
        asked += [language.question(drawn, rng) for _ in range(questions)]
    pictures, labels, places = drawn.labelled()
    prefix = picture_prefix(len(pictures), tokenizer)
    tokens, positions, turns, wanted = [*prefix], [*range(len(prefix))], [0] * len(prefix), [False] * len(prefix)
    for turn, (request, answer) in enumerate(asked, 1):
        ask, reply = asking(request, tokenizer), tokenizer(f"{answer}<|im_end|>").input_ids
        tokens += ask + reply
        positions += range(len(prefix), len(prefix) + len(ask) + len(reply))
        turns += [turn] * (len(ask) + len(reply))
        wanted += [False] * len(ask) + [True] * len(reply)
    return Example(
        *(np.array(part) for part in (tokens, positions, turns, wanted)),
        pictures, labels, places, COLOURS.index(drawn.colour),
    )  # fmt: skip


def picture_prefix(pictures: int, tokenizer) -> list[int]:
    """Token ids of a user's turn up to its last picture."""
    start, line = tokenizer("<|im_start|>user\n").input_ids, tokenizer("\n").input_ids
    return start + ([IMAGE_TOKEN_ID] * IMAGE_TOKENS + line) * pictures


def asking(request: str, tokenizer) -> list[int]:
    """Token ids from there to where the answer begins."""
    return tokenizer(f"{request}<|im_end|>\n<|im_start|>assistant\n").input_ids


def collate(examples: list[Example]) -> dict[str, torch.Tensor]:
    """Right-padded batch: tokens, positions [n, L]; mask bool [n, 1, L, L]; wanted bool [n, L]; pictures and labels
    of all examples one after the other."""
    length = max(len(e.tokens) for e in examples)
    pad = {"tokens": 2, "positions": 0, "turns": -1, "wanted": False}
    padded = {
        key: torch.from_numpy(
            np.stack([np.pad(getattr(e, key), (0, length - len(e.tokens)), constant_values=fill) for e in examples])
        )
        for key, fill in pad.items()
    }
    turns = padded.pop("turns")
    same = (turns[:, :, None] == turns[:, None, :]) | (turns[:, None, :] == 0)
    colours = torch.tensor([e.colour for e in examples for _ in e.pictures])
    return {
        **padded,
        "mask": (same & torch.ones(length, length, dtype=torch.bool).tril())[:, None],
        "pictures": np.concatenate([e.pictures for e in examples]),
        "labels": torch.from_numpy(np.concatenate([e.labels for e in examples])),
        "places": torch.from_numpy(np.concatenate([e.places for e in examples])),
        "colours": colours[:, None].expand(-1, IMAGE_TOKENS),
    }


def batch(step: int, tokenizer, seed: int = 7, scenes_per_batch: int = 4, sheets: float = 0.0) -> dict[str, torch.Tensor]:
    """Batch number `step`, deterministic in (seed, step): scenes, or clips of one number of frames.

    Single pictures come first: motion can be learned only once places are. A share of `sheets` is sheets of one number of
    pages, for a target that knows scenes and clips already; the others are then scenes and clips by halves.
    """
    rng = np.random.default_rng([seed, step])
    if sheets:
        if rng.random() < sheets:
            # Few pages first: rows and columns are the same on all of them.
            pages = int(rng.choice((1, 1, 2) if step < 60 else (1, 2, 3, 4)))
            return collate([example("sheet", rng, tokenizer, frames=pages) for _ in range(max(1, 4 // pages))])
        step = 350
    share = 0.3 if step < 350 else 0.5 if step < 760 else 0.75
    if rng.random() < share:
        frames = int(rng.choice(CLIP_FRAMES))
        return collate([example("clip", rng, tokenizer, frames=frames) for _ in range(max(2, 12 // frames))])
    return collate([example("scene", rng, tokenizer) for _ in range(scenes_per_batch)])
