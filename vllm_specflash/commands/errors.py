"""What a user can put right is said in one sentence; everything else keeps its traceback."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from vllm_specflash.config import SpecFlashError


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print a SpecFlashError's sentence to stderr and exit with 1."""
    try:
        yield
    except SpecFlashError as error:
        Console(stderr=True, soft_wrap=True).print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
