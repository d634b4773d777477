"""specflash ablate: one table of what each choice in a draft is worth."""

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.config import SpecFlashError
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.train.ablation import Ground, run_row, table_rows
from vllm_specflash.train.ablation_table import markdown
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.recipe import RecipeOptions
from vllm_specflash.train.shape import DraftOptions

COMMAND = "specflash ablate --target TARGET --data A --features F --dataset-data B --dataset-features G --out OUT"


@with_options(shape=DraftOptions, loss=LossOptions, recipe=RecipeOptions)
def run(
    target: Annotated[str, typer.Option(help="Checkpoint folder or hub id of the target.")],
    data: Annotated[list[Path], typer.Option(help="Folder of the target's own answers; may be repeated.")],
    out: Annotated[Path, typer.Option(help="Folder of the rows; finished ones are kept.")],
    shape: DraftOptions,
    loss: LossOptions,
    recipe: RecipeOptions,
    dataset_data: Annotated[
        list[Path], typer.Option(help="The same prompts with a data set's answers; without, that row is left out.")
    ] = [],
    dataset_features: Annotated[Path | None, typer.Option(help="The target's features over those answers.")] = None,
    row: Annotated[list[str], typer.Option(help="Train only this row; may be repeated.")] = [],
    judged_answers: Annotated[int, typer.Option(min=1, help="Held-out answers that tau is simulated on.")] = 60,
    table: Annotated[Path | None, typer.Option(help="Write the table of all finished rows here, as markdown.")] = None,
) -> None:
    with one_sentence_errors():
        if not recipe.max_steps or recipe.features is None:
            raise SpecFlashError("An ablation needs --max-steps, the same for all rows, and --features, which all rows share.")
        if dataset_data and dataset_features is None:
            raise SpecFlashError("--dataset-data needs --dataset-features: the target's features over those answers.")
        ground = Ground(
            target, data, recipe.features, out, shape, loss, recipe, dataset_data, dataset_features, judged_answers
        )
        rows = [one for one in table_rows(shape) if dataset_data or not one.dataset_answers]
        unknown = sorted(set(row) - {one.name for one in rows})
        if unknown:
            raise SpecFlashError(f"There is no row {', '.join(unknown)}: the rows are {', '.join(one.name for one in rows)}.")
        for one in rows:
            if not row or one.name in row:
                run_row(one, ground)
    found = [json.loads(path.read_text()) for path in (out / one.name / "row.json" for one in rows) if path.is_file()]
    write_provenance(out / "ablation.json", rows=found)
    if table is not None and found:
        base = asdict(shape)
        command = " \\\n        ".join([COMMAND, _given(shape, loss, recipe)])
        missing = [one.name for one in rows if one.name not in {row["row"]["name"] for row in found}]
        page = markdown(found, missing, base, recipe.max_steps, recipe.batch_size, judged_answers, command)
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text(page, encoding="utf-8")
        typer.echo(f"written: {table} ({len(found)} of {len(rows)} rows)")


def _given(*settings) -> str:
    """The options that differ from the defaults, as they are written on the command line."""
    changed = [
        f"--{f.name.replace('_', '-')} {getattr(one, f.name)}"
        for one in settings for f in fields(one)
        if getattr(one, f.name) != f.default and not isinstance(getattr(one, f.name), Path)
    ]  # fmt: skip
    return " ".join(changed)
