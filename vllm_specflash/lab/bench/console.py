"""How commands talk while they work."""

import time
from collections.abc import Callable

from rich.console import Console
from rich.status import Status

# Where output is no terminal, rich assumes 80 columns and cuts the tables.
WIDTH = 110

Announce = Callable[[str], None]


def wide_console() -> Console:
    return Console() if Console().is_terminal else Console(width=WIDTH)


def announcer(console: Console, status: Status, began: float) -> Announce:
    """A function that says what is happening now, with the seconds since `began` (time.monotonic())."""

    def announce(text: str) -> None:
        line = f"{time.monotonic() - began:5.0f} s  {text}"
        status.update(line)
        console.print(line, style="dim", markup=False, highlight=False)

    return announce
