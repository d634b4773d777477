"""What the doctor says of one thing."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from vllm_specflash.config import SpecFlashError, first_sentence

OK, NOTE, FAULT = "ok", "note", "fault"


@dataclass(frozen=True)
class Finding:
    """One line of the screen: what was looked at, how it is, and what to do about it if it is not well."""

    subject: str
    state: str
    found: str
    advice: str = ""


def guarded(subject: str, examine_one: Callable[[], Finding]) -> Finding:
    """A finding whatever happens: this command is run where things are broken."""
    try:
        return examine_one()
    except SpecFlashError as error:
        return Finding(subject, FAULT, str(error))
    except Exception as error:
        # pydantic says how many fields are wrong before it says what is.
        said = re.sub(r"^\d+ validation errors? for \w+ ([Vv]alue error, )?", "", first_sentence(error))
        return Finding(subject, FAULT, f"{type(error).__name__}: {said}")
