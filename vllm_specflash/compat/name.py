"""One name of vLLM's, and what of it is used."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Name:
    """`module.Qualified.name`, and what of it we use.

    Attributes:
        parameters: of a function, or of a class's __init__.
        attributes: of a class's instances. Most are set in __init__, so only `make compat` can check them.
    """

    module: str
    qualname: str
    parameters: tuple[str, ...] = ()
    attributes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.module}.{self.qualname}"
