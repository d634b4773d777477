"""`specflash`: one module of vllm_specflash.commands per command, imported when the command runs."""

from importlib import import_module
from typing import Annotated

import typer
from typer.core import TyperGroup

COMMANDS = {
    "predict": "What a draft would gain on this machine, before one is trained.",
    "data": "Answers of a target to prompts, generated with vLLM.",
    "train": "A draft for a target, from its answers.",
    "eval": "Acceptance of a draft per task and position, simulated and measured by serving.",
    "ablate": "One table of what each choice in a draft is worth.",
    "eagle3": "A draft for vLLM's own eagle3 method from the same answers, to measure against.",
    "convert": "A checkpoint in the authors' layout, as one of ours.",
    "bench": "Speed against plain vLLM and its own methods, on the same prompts in the same run.",
    "served": "What of a benchmark's speed-up reaches the clients of a server.",
    "identity": "Whether greedy answers are those of plain vLLM, in float32.",
    "soak": "A server under load: errors, leaks, memory, and whether its answers stay plain vLLM's.",
    "inspect": "One answer as a page: where latents look, what was drafted and accepted, the time of every step.",
    "demo": "Held-out pictures, clips and chat, plain vLLM beside SpecFLASH.",
    "doctor": "Whether this machine, this vLLM, a target and a draft fit together.",
}


class LazyCommands(TyperGroup):
    """Loads a command's module only when that command is asked for: `specflash --help` imports no torch."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        if name not in COMMANDS:
            return None
        module = typer.Typer(add_completion=False)
        module.command(name, help=COMMANDS[name])(import_module(f"vllm_specflash.commands.{name}").run)
        return typer.main.get_command(module)

    def format_commands(self, ctx, formatter):
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


app = typer.Typer(cls=LazyCommands, add_completion=False, no_args_is_help=True, rich_markup_mode=None)


def _print_versions(asked: bool) -> None:
    if asked:
        from vllm_specflash import __version__, compat

        typer.echo(f"vllm-specflash {__version__}, vLLM {compat.vllm_version() or 'not installed'}")
        raise typer.Exit


@app.callback()
def _specflash(
    version: Annotated[bool, typer.Option("--version", callback=_print_versions, is_eager=True, help="Say the versions and end.")] = False,
) -> None:
    """SpecFLASH speculative decoding: from a target to its draft."""


if __name__ == "__main__":
    app()
