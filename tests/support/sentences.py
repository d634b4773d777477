"""The form that every refusal has: one sentence on one line."""

import re


def one_sentence(error) -> str:
    """The message of a refusal, checked to be one line and one sentence."""
    message = str(error.value)
    # A full stop ends a sentence only before a space; versions, paths and names keep theirs.
    assert message.endswith(".") and "\n" not in message and not re.search(r"\. [A-Z]", message), message
    return message
