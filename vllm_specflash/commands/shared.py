"""Options that are the same in several commands."""

from pathlib import Path
from typing import Annotated

import typer

Draft = Annotated[str | None, typer.Option(help="SpecFLASH draft; default: the one shipped or found.")]
Data = Annotated[Path, typer.Option(help="Folder of jsonl files with prompts.")]
TasksInTurns = Annotated[list[str], typer.Option(help="Tasks of --data, asked in turns; may be repeated.")]
ResultFile = Annotated[Path | None, typer.Option(help="JSON file for the result.")]
