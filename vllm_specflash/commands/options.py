"""Command-line options made from dataclass fields, so that a default, its description and its bounds are written once."""

import inspect
from collections.abc import Callable
from dataclasses import fields
from functools import wraps
from typing import Annotated, Literal, get_type_hints

import typer


def with_options(**groups: type) -> Callable:
    """Decorator: each keyword parameter of the command that is named here becomes its dataclass's fields as options.

    `@with_options(loss=LossOptions) def run(out: Path, loss): ...` has --out and one option per field of LossOptions,
    and is called with the dataclass filled in. A field's metadata may have `help`, `min` and `max` of a number, and `choices`.
    """

    def decorate(command: Callable) -> Callable:
        @wraps(command)
        def run(**values):
            filled = {name: cls(**{f.name: values.pop(f.name) for f in fields(cls)}) for name, cls in groups.items()}
            return command(**values, **filled)

        own = inspect.signature(command, eval_str=True).parameters
        parameters = [p.replace(kind=p.KEYWORD_ONLY) for name, p in own.items() if name not in groups]
        for cls in groups.values():
            hints = get_type_hints(cls)
            for f in fields(cls):
                said = f.metadata
                kind = Literal[said["choices"]] if "choices" in said else hints[f.name]
                kind = Annotated[kind, typer.Option(help=said.get("help"), min=said.get("min"), max=said.get("max"))]
                parameters.append(
                    inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=kind)
                )
        run.__signature__ = inspect.Signature(parameters)
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__
        return run

    return decorate
