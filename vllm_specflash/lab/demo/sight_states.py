"""The demo target's states over reference answers, several turns to a picture: what short trainings of drafts are made of.

Turns of one picture share its prefix (conversations.py), which makes the states of a turn cost a third of what it would
alone. Teacher-forced on the references: a trained target's own answers differ from them in few tokens.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import track
from torch import Tensor

from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID, IMAGE_TOKENS, Example, collate, example
from vllm_specflash.lab.demo.lora import merge_lora
from vllm_specflash.lab.demo.parts import LORA, PROJECTOR, TOWER, part, tensors_of
from vllm_specflash.lab.demo.projector import Projector, load_tower
from vllm_specflash.lab.demo.smollm2 import load_language_model, load_tokenizer
from vllm_specflash.lab.demo.train_lora import visual_embeddings
from vllm_specflash.train.target import Sample

FRAMES = {"scene": (1,), "clip": (4, 5, 6), "sheet": (2, 3), "page": (1,)}
# Shorter answers end within a draft or two: they say nothing about its length.
MIN_ANSWER = 24


@dataclass
class Turn:
    """One teacher-forced turn.

    Attributes:
        sample: ids, where the answer starts, and the visual spans.
        hidden: [L, D] bfloat16, the target's last hidden states.
        embeddings: [visual rows, D] bfloat16, what the projector gave for the spans, in order.
        held_out: not to be trained on.
    """

    sample: Sample
    hidden: Tensor
    embeddings: Tensor
    held_out: bool


class DemoStates:
    """The target out of a folder with its tower, projector and LoRA, as they ship."""

    def __init__(self, weights: Path):
        lora, projector = (tensors_of(part(weights, name)) for name in (LORA, PROJECTOR))
        self.tower, self.projector = load_tower(part(weights, TOWER).parent), Projector()
        self.model, self.tokenizer = load_language_model(), load_tokenizer()
        merge_lora(self.model, lora)
        self.model.eval().requires_grad_(False)
        self.projector.load_state_dict({name: tensor.float() for name, tensor in projector.items()})

    @property
    def embedding(self) -> Tensor:
        """[V, D], tied: the lm_head too."""
        return self.model.get_input_embeddings().weight

    @torch.inference_mode()
    def inputs(self, tokens: Tensor, pictures: np.ndarray) -> tuple[Tensor, Tensor]:
        """What the first layer reads of tokens [n, L], and of that the pictures' rows [visual rows, D]."""
        embeds = self.model.get_input_embeddings()(tokens)
        visual = visual_embeddings(self.tower, self.projector, pictures).to(embeds.dtype).flatten(0, 1)
        embeds[tokens == IMAGE_TOKEN_ID] = visual
        return embeds, visual

    @torch.inference_mode()
    def turns(self, kind: str, number: int, held_out: bool) -> list[Turn]:
        """Turns of at least MIN_ANSWER answer tokens about picture `number` of a "scene", "clip", "sheet" or "page", a sheet of one."""
        rng = np.random.default_rng([41, list(FRAMES).index(kind), number, held_out])
        frames = int(rng.choice(FRAMES[kind]))
        drawn = example("sheet" if kind == "page" else kind, rng, self.tokenizer, "heldout" if held_out else "draft", frames)
        data = collate([drawn])
        embeds, visual = self.inputs(data["tokens"], data["pictures"])
        bias = torch.zeros(data["mask"].shape, dtype=embeds.dtype).masked_fill_(~data["mask"], -1e9)
        hidden = self.model.model(
            inputs_embeds=embeds, attention_mask=bias, position_ids=data["positions"], use_cache=False
        ).last_hidden_state[0]
        return [
            Turn(sample, hidden[rows].clone(), visual, held_out)
            for sample, rows in split_turns(drawn, f"{kind}-{number}", f"{kind}s")
            if len(sample) - sample.answer_start >= MIN_ANSWER
        ]


def split_turns(drawn: Example, name: str, task: str) -> list[tuple[Sample, np.ndarray]]:
    """Each turn of a packed example as a conversation of its own, and the rows of the example that it consists of."""
    pairs = []
    prefix = np.flatnonzero(drawn.turns == 0)
    starts = np.flatnonzero(drawn.tokens == IMAGE_TOKEN_ID)[::IMAGE_TOKENS]
    for turn in range(1, drawn.turns.max() + 1):
        own = np.flatnonzero(drawn.turns == turn)
        rows = np.concatenate((prefix, own))
        start = len(prefix) + int((~drawn.wanted[own]).sum())
        spans = [(int(at), IMAGE_TOKENS) for at in starts]
        ids = torch.from_numpy(drawn.tokens[rows])
        pairs.append((Sample(f"{name}-{turn}", task, ids, start, spans, {}, True), rows))
    return pairs


def prepare(states: DemoStates, folder: Path, counts: dict[str, tuple[int, int]]) -> None:
    """Write folder/KIND.pt with the turns of so many pictures of each kind: (to train on, held out). Kept where it exists."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind, (training, held_out) in counts.items():
        path = folder / f"{kind}.pt"
        if path.exists():
            continue
        turns = []
        for number in track(range(training + held_out), description=f"states of {kind}s"):
            turns += states.turns(kind, number, held_out=number >= training)
        scratch = path.with_suffix(".part")
        torch.save(turns, scratch)
        scratch.rename(path)
    if not (folder / "embedding.pt").exists():
        torch.save(states.embedding.detach().clone(), folder / "embedding.pt")
