"""Fields of dataclasses that become options of the command line (commands/options.py)."""

from dataclasses import field


def option(default, help: str, **bounds):
    """A field with that default, described by `help`; `min` and `max` of a number, and `choices`, are what the command line takes."""
    return field(default=default, metadata={"help": help, **bounds})
