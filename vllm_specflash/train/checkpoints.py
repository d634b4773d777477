"""Checkpoints of a training: complete ones are told from torn ones by the provenance that is written last."""

import json
import os
import shutil
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train.provenance import write_provenance

PROVENANCE = "provenance.json"
# Settings that may change between the parts of one training: they do not change what is learnt.
FREE = {"features", "tensorboard", "evaluate_every", "log_every", "held_out_limit"}


class CheckpointProvenance(TrainerCallback):
    """Writes where a checkpoint came from beside it, once everything else of it is written; and logs with every save.

    Without a log at every save, the first log of a resumed run would be a mean over fewer steps than the same log of
    an uninterrupted one.
    """

    def __init__(self, facts: dict):
        self.facts = facts

    def on_step_end(self, args, state, control, **kwargs):
        control.should_log = control.should_log or control.should_save
        return control

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            scratch = folder / f"{PROVENANCE}.part"
            write_provenance(scratch, **self.facts, step=state.global_step, log=state.log_history[-1:])
            os.replace(scratch, folder / PROVENANCE)


def drop_torn_checkpoints(folder: Path) -> None:
    """Remove what a kill in the middle of saving left behind."""
    for checkpoint in folder.glob("checkpoint-*"):
        if not (checkpoint / PROVENANCE).is_file():
            shutil.rmtree(checkpoint)


def last_checkpoint(folder: Path, facts: dict) -> str | None:
    """Where to go on; None for a new start.

    Raises:
        SpecFlashError: the folder holds a training with other settings or other data.
    """
    found = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if found is None:
        return None
    before = json.loads((Path(found) / PROVENANCE).read_text(encoding="utf-8"))
    refuse_other_settings(before, facts, folder.parent)
    return found


def refuse_other_settings(before: dict, facts: dict, folder: Path) -> None:
    """Raise SpecFlashError where facts are not those of the training that the folder holds."""
    changed = [name for name in _changed(before, json.loads(json.dumps(facts, default=str))) if name not in FREE]
    if changed:
        raise SpecFlashError(
            f"{folder} holds a training with other settings ({', '.join(changed)}): name another --out, "
            "or repeat the first command to go on with it."
        )


def _changed(before: dict, now: dict) -> list[str]:
    names = []
    for name, value in now.items():
        if isinstance(value, dict):
            names += _changed(before.get(name) or {}, value)
        elif before.get(name) != value:
            names.append(name)
    return names
