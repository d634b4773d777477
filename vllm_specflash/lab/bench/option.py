"""Fields of dataclasses that become options of the command line (commands/options.py)."""

from dataclasses import field


def option(default, help: str):
    """A field with that default, described by `help`."""
    return field(default=default, metadata={"help": help})
