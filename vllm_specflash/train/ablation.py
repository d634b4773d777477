"""What each choice in a draft is worth: short trainings that differ in one thing, judged on the same held-out answers."""

import functools
import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.batch import layout
from vllm_specflash.train.checkpoints import refuse_other_settings
from vllm_specflash.train.dataset import AnswerSet, is_held_out, load_answers
from vllm_specflash.train.evaluate import evaluate_draft
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions
from vllm_specflash.train.simulate import Acceptance
from vllm_specflash.train.target import Sample, Target

# Chains as long as this are cut from as many rounds as they need, so that drafts of every width can be compared.
CHAIN = 8
# Evaluation during the short trainings only names the best checkpoint, and there is one.
TRAINING_HELD_OUT = 8


# Trees as large as the engine's default.
TREE_NODES = 16
# Of the target, told to the draft beside its last hidden state: EAGLE-3's choice for 30 layers.
LAYERS = ("2,15,27",)
LOSSES = {
    "no-smooth-l1": {"smooth_l1": 0.0},
    "total-variation": {"cross_entropy": 0.1, "total_variation": 0.9},
    "acceptance": {"cross_entropy": 0.1, "acceptance": 0.9},
    "greedier": {"target_temperature": 0.5},
    "on-policy": {"on_policy": 1.0},
}


@dataclass(frozen=True)
class Row:
    """One training of the table.

    Attributes:
        name: also its folder's.
        question: what the rows of a group answer together.
        changes: of DraftOptions, against the base.
        loss: of LossOptions, against the base.
        one_in: trained on one in so many of the training answers, as many times more often.
        dataset_answers: trained on the data set's answers in place of the target's own.
    """

    name: str
    question: str
    changes: dict = field(default_factory=dict)
    loss: dict = field(default_factory=dict)
    one_in: int = 1
    dataset_answers: bool = False


def table_rows(base: DraftOptions) -> list[Row]:
    """All rows, the base first; a value that the base has already is not trained twice."""
    rows = [
        Row("base", "the base"),
        Row("no-compression", "compression", {"compressor": "none"}),
        Row("paper", "compression", {"compressor": "paper"}),
        *(Row(f"latents-{m}", "compression", {"num_latents": m}) for m in (4, 16, 64)),
        *(Row(f"width-{k}", "tokens per forward", {"semi_ar_width": k}) for k in range(1, 9)),
        *(Row(f"variant-{v}", "layer", {"variant": v}) for v in ("plain", "residual")),
        *(Row(f"transition-{r}", "transition between positions", {"transition_rank": r}) for r in (0, 64)),
        *(Row(f"vocabulary-{v or 'full'}", "draft vocabulary", {"draft_vocab_size": v}) for v in (512, 2048, 8192, 0)),
        *(Row(f"selector-{w}", "what follows a token, in the light of the states", {"selector_width": w}) for w in (0, 128)),
        *(Row(f"feed-forward-{w}", "a feed-forward block after the attention", {"feed_forward": w}) for w in (0, 1536)),
        *(Row(f"layers-{text.replace(',', '-')}", "layers of the target", {"target_layers": text}) for text in LAYERS),
        *(Row(f"loss-{name}", "losses", loss=changes) for name, changes in LOSSES.items()),
        *(Row(f"answers-1-in-{n}", "the same steps over fewer answers", one_in=n) for n in (2, 4)),
        Row("dataset-answers", "answers", dataset_answers=True),
    ]
    return [row for row in rows if not row.changes or any(getattr(base, name) != v for name, v in row.changes.items())]


@dataclass(frozen=True)
class Ground:
    """What all rows share: the target, its answers and their features, and the settings of the base."""

    target: str
    data: list[Path]
    features: Path
    out: Path
    shape: DraftOptions
    loss: LossOptions
    recipe: RecipeOptions
    dataset_data: list[Path]
    dataset_features: Path | None
    judged_answers: int


def run_row(row: Row, ground: Ground) -> dict:
    """Train and judge one row, or read it where that is done; an interrupted one goes on from its last checkpoint.

    Raises:
        SpecFlashError: it was trained with other settings.
    """
    folder = ground.out / row.name
    done = folder / "row.json"
    features = _features(row, ground)
    recipe = replace(
        ground.recipe, held_out_limit=TRAINING_HELD_OUT, one_in=row.one_in, features=ground.dataset_features if row.dataset_answers else features
    )
    data = ground.dataset_data if row.dataset_answers else ground.data
    shape, loss = replace(ground.shape, **row.changes), replace(ground.loss, **row.loss)
    facts = {
        "recipe": asdict(recipe), "shape": asdict(shape), "loss": asdict(loss), "data_sha256": _digests(*data),
    }  # fmt: skip
    if done.is_file():
        found = json.loads(done.read_text(encoding="utf-8"))
        # Rows of earlier versions name less.
        refuse_other_settings(found, {name: fact for name, fact in facts.items() if name in found}, folder)
        return found
    began = time.monotonic()
    train_draft(ground.target, data, folder, shape, loss, recipe)
    seconds = time.monotonic() - began
    found = {"row": asdict(row), "train_seconds": seconds, **judge(folder, ground, features)}
    scratch = done.with_suffix(".part")
    write_provenance(scratch, **found, **facts)
    os.replace(scratch, done)
    return json.loads(done.read_text(encoding="utf-8"))


@functools.cache
def _digests(*data: Path) -> list[str]:
    """Of the answers, which many rows share."""
    return [AnswerFolder(folder).digest() for folder in data]


def _features(row: Row, ground: Ground) -> Path:
    """Where the target's states over its own answers are kept: those of more layers beside those of the last."""
    more = row.changes.get("target_layers") or row.changes.get("visual_features") in ("embeddings", "both")
    return ground.features.with_name(f"{ground.features.name}-{row.name}") if more else ground.features


def judge(folder: Path, ground: Ground, features: Path) -> dict:
    """A trained draft on the held-out answers that the target itself gave, whatever the draft was trained on."""
    target = Target(ground.target)
    draft = SpecFlashDraft.from_pretrained(folder, dtype=torch.float32)
    target.layers = draft.config.trained_layers
    width, recipe = draft.config.semi_ar_width, ground.recipe
    answers = load_answers([AnswerFolder(data) for data in ground.data], target, recipe.max_length, Counter())
    held_out = [a for a in answers if a.temperature == 0 and is_held_out(a.prompt.id, recipe.held_out_share)]
    cache = FeatureCache(features, target.text_config.hidden_size, target.name, target.layers)
    judged = AnswerSet(held_out[: ground.judged_answers], target, recipe.max_length, Counter(), cache)
    long = -(-CHAIN // width)
    taus = {
        "one round": evaluate_draft(draft, target, judged, 1),
        "two rounds": evaluate_draft(draft, target, judged, 2),
        f"chain of {CHAIN}": evaluate_draft(draft, target, judged, long, CHAIN),
        f"trees of {TREE_NODES}": evaluate_draft(draft, target, judged, 1, tree_nodes=TREE_NODES),
    }
    one_round = sum(taus["one round"].values(), Acceptance(0, 0, torch.zeros(0)))
    samples = [sample for sample in (judged[i] for i in range(len(judged))) if sample is not None]
    return {
        "tau": {name: {task: a.tau for task, a in by_task.items()} for name, by_task in taus.items()},
        "all": {name: sum(by_task.values(), Acceptance(0, 0, torch.zeros(0))).tau for name, by_task in taus.items()},
        "first": one_round.per_position[0],
        "calibration_error": one_round.calibration_error,
        "parameters": sum(p.numel() for p in draft.parameters()),
        **_work(samples, draft.config.pooling),
    }


def _work(samples: list[Sample], pooling: Pooling | None) -> dict[str, float]:
    """Rows of the draft's KV per answer, and rows that a draft forward attends to, both as means over the samples."""
    kv, seen = [], []
    for sample in samples:
        positions, rows, _ = layout(sample, pooling)
        kv.append(rows[-1] + 1)
        seen += [row + 1 for position, row in zip(positions, rows, strict=True) if position >= sample.answer_start - 1]
    return {"kv_rows": sum(kv) / len(kv), "attended_rows": sum(seen) / len(seen)}
