"""What a draft's sight of the picture is worth: `python -m vllm_specflash.lab.demo.sight --out W --table sight.md`.

One training per row (sight_training.py), judged on held-out scenes, clips, sheets and single pages. Rows differ in what the
draft sees of a picture and in nothing else. Finished rows are kept, as are the states.
"""

import argparse
import json
import os
import time
from collections import Counter
from pathlib import Path

import torch

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.checkout import SHEET_READER
from vllm_specflash.lab.demo.assemble import demo_name
from vllm_specflash.lab.demo.sight_states import DemoStates, prepare
from vllm_specflash.lab.demo.sight_table import markdown
from vllm_specflash.lab.demo.sight_time import drafting_step, milliseconds
from vllm_specflash.lab.demo.sight_training import Ground, Setting, lay_out, new_draft, train
from vllm_specflash.train.allocator import keep_freed_memory
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.simulate import Acceptance, drafted, walk

# Of each kind: pictures to train on, and held out.
COUNTS = {"page": (400, 40), "sheet": (240, 24), "scene": (80, 16), "clip": (24, 8)}


def _placed(latents: int, features: str, **more) -> dict:
    return {"compressor": "placed", "num_latents": latents, "visual_features": features, **more}


ROWS: dict[str, dict] = {
    "hidden": {"num_latents": 0},
    "all rows": {"compressor": "none"},
    **{f"paper, M = {m}": {"num_latents": m} for m in (1, 4, 16, 64)},
    **{f"placed, states, M = {m}": _placed(m, "states") for m in (1, 4, 9, 16, 64)},
    **{f"placed, embeddings, M = {m}": _placed(m, "embeddings") for m in (1, 4, 9, 16, 64)},
    **{f"placed, both, M = {m}": _placed(m, "both") for m in (9, 16)},
    # Latents that grow with the picture: the demo's pictures in pieces of so many positions.
    **{
        f"placed, embeddings, M = {m} per {n}": _placed(m, "embeddings", pool_length=n, latent_positions=n)
        for m, n in ((2, 8), (4, 16), (8, 32))
    },
}


@torch.no_grad()
def judge(draft: SpecFlashDraft, ground: Ground) -> dict[str, dict]:
    """Per task: tau, share of first tokens accepted, share of names that a draft gave (not the target), rows attended to."""
    embedding, lm_head = ground.embedding.float(), ground.lm_head.float()
    accepted: dict[str, Acceptance] = {}
    counts: dict[str, Counter] = {}
    for turn in ground.held_out:
        batch, hidden, visual = lay_out([turn], draft)
        chains = drafted(draft, batch, hidden.float(), embedding, lm_head, 1, visual=visual.float()).chain()
        answer, task = turn.sample.input_ids[turn.sample.answer_start :], turn.sample.task
        found = walk(chains, answer)
        accepted[task] = accepted[task] + found if task in accepted else found
        count = counts.setdefault(task, Counter())
        count["rows"] += batch.answer_rows.float().mean().item() + 1
        count["answers"] += 1
        named = ground.names[answer]
        done = 1
        while done < len(answer):
            guesses = chains[done - 1, : len(answer) - done]
            right = int((guesses == answer[done : done + len(guesses)]).long().cumprod(0).sum())
            count["drafted"] += int(named[done : done + right].sum())
            done += min(right + 1, len(answer) - done)
        count["names"] += int(named[1:].sum())
    return {
        task: {
            "tau": found.tau, "forwards": found.steps, "accepted_at": found.per_position,
            "names_drafted": counts[task]["drafted"] / max(counts[task]["names"], 1),
            "attended_rows": counts[task]["rows"] / counts[task]["answers"],
        }
        for task, found in accepted.items()
    }  # fmt: skip


def run_row(name: str, ground: Ground, setting: Setting, out: Path, keep_as: str | None = None) -> dict:
    """Train and judge one row, or read it where that is done; its draft is kept beside it for the target of that name."""
    path = out / f"{name.replace(', ', '-').replace(' = ', '').replace(' ', '-')}-seed{setting.seed}.json"
    if not path.exists():
        began = time.monotonic()
        draft = train(ground, setting, ROWS[name], name)
        if keep_as is not None:
            draft.config.target_name = keep_as
            draft.to(torch.bfloat16).save_pretrained(path.with_suffix(""))
            draft.float()
        found = judge(draft, ground)
        shared = {**vars(setting), "states": setting.states.name}
        scratch = path.with_suffix(".part")
        write_provenance(
            scratch, row=name, fields=ROWS[name], setting=shared, tasks=found, training_turns=len(ground.training),
            parameters=sum(p.numel() for p in draft.parameters()), seconds=time.monotonic() - began,
        )  # fmt: skip
        os.replace(scratch, path)
    return json.loads(path.read_text())


def add_times(rows: list[dict], ground: Ground, setting: Setting, rounds: int = 40) -> None:
    """Give every task of every row `draft_ms`, the time of a drafting step over as many rows as it attends to."""
    cells = [(row["row"], found) for row in rows for found in row["tasks"].values()]
    shapes = sorted({(name, round(found["attended_rows"])) for name, found in cells})
    steps = [drafting_step(new_draft(ground, setting, ROWS[name]), ground.embedding, attended) for name, attended in shapes]
    times = dict(zip(shapes, milliseconds(steps, rounds)))
    for name, found in cells:
        found["draft_ms"] = times[name, round(found["attended_rows"])]


def _count(text: str) -> tuple[str, tuple[int, int]]:
    """An option's "scene=400" as an item of COUNTS."""
    kind, _, number = text.partition("=")
    if kind not in COUNTS or not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND=N, N pictures of one of {', '.join(COUNTS)}")
    return kind, (int(number), COUNTS[kind][1])


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the states and of the finished rows")
    parser.add_argument("--weights", type=Path, default=SHEET_READER, help="the target's tower, projector and LoRA")
    parser.add_argument("--row", action="append", choices=list(ROWS), metavar="ROW", help="only this row; may be repeated")
    parser.add_argument("--kind", action="append", choices=list(COUNTS), help="only this kind of picture; may be repeated")
    parser.add_argument("--count", action="append", default=[], type=_count, metavar="KIND=N", help="pictures of a kind to train on; may be repeated")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=7, help="K")
    parser.add_argument("--expansion", type=int, default=2)
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", action="store_true", help="keep each row's draft, to be served")
    parser.add_argument("--table", type=Path, help="write the table of all finished rows here, and its data beside it")
    options = parser.parse_args()
    keep_freed_memory()
    kinds, counts = tuple(options.kind or COUNTS), {**COUNTS, **dict(options.count)}
    if not all((options.out / "states" / f"{kind}.pt").exists() for kind in kinds):
        prepare(DemoStates(options.weights), options.out / "states", {kind: counts[kind] for kind in kinds})
    setting = Setting(
        options.out / "states", kinds, options.steps, options.batch, options.width, options.expansion,
        options.vocabulary, options.learning_rate, options.seed,
    )  # fmt: skip
    ground, found = Ground(setting), []
    target = demo_name(options.weights) if options.keep else None
    for name in options.row or ROWS:
        found.append(run_row(name, ground, setting, options.out, target))
        print(json.dumps({"row": name, **{t: {k: r[k] for k in ("tau", "names_drafted")} for t, r in found[-1]["tasks"].items()}}), flush=True)
    if options.table:
        rows = [json.loads(path.read_text()) for path in sorted(options.out.glob("*.json"))]
        rows.sort(key=lambda row: (list(ROWS).index(row["row"]), row["setting"]["seed"]))
        add_times(rows, ground, setting)
        options.table.write_text(markdown(rows, f"{torch.get_num_threads()} threads of a CPU"), encoding="utf-8")
        write_provenance(options.table.with_suffix(".json"), rows=rows)


if __name__ == "__main__":
    main()
