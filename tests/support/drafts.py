"""The drafts that tests of engines ask for by name."""

from pathlib import Path

from tiny_models import draft_for


def named_drafts(target: Path, folder: Path, **random) -> dict[str, Path]:
    """Drafts for a target of two layers, by name; `random` are more fields of the random one's config."""
    return {
        "knowing": draft_for(target, folder / "knowing", knowing=True),
        "random": draft_for(target, folder / "random", transition_rank=4, draft_vocab_size=40, **random),
        "nan": draft_for(target, folder / "nan", nan=True),
        "plain": draft_for(target, folder / "plain", variant="plain", num_latents=32),
        "layers": draft_for(target, folder / "layers", knowing=True, target_layers=[1, 0]),
    }
