"""What a user can put right is said in one sentence; everything else keeps its traceback."""

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from rich.console import Console

from vllm_specflash.config import SpecFlashError


@contextmanager
def one_sentence_errors() -> Iterator[None]:
    """Print the sentence of a SpecFlashError, or one about the file of an OSError, to stderr and exit with 1.

    Around a block of a command, or as a decorator of the `main` of what runs by `python -m`.
    """
    try:
        yield
    except SpecFlashError as error:
        _end(str(error))
    except OSError as error:
        # Of a file that the user named, or of a full disk; anything else of the system is a fault of ours.
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _end(f"There is no room left on the disk ({error.strerror}): make some and repeat the command, or name another place.")
        if error.filename is None:
            raise
        _end(f"{error.filename} cannot be used ({error.strerror}): name another place.")


def _end(sentence: str) -> NoReturn:
    Console(stderr=True, soft_wrap=True).print(sentence, style="red", markup=False, highlight=False)
    # Not typer's own exit: not all that runs by `python -m` is a typer command.
    sys.exit(1)
