"""specflash demo: plain vLLM and SpecFLASH side by side on the shipped targets and prompts."""

import typer

from vllm_specflash.commands.options import with_options
from vllm_specflash.commands.shared import Data
from vllm_specflash.lab.bench.console import wide_console
from vllm_specflash.lab.bench.demo import DemoOptions, run_demo
from vllm_specflash.lab.bench.engine import EngineFailed
from vllm_specflash.lab.checkout import EXAMPLE_DATA


@with_options(options=DemoOptions)
def run(options: DemoOptions, data: Data = EXAMPLE_DATA) -> None:
    console = wide_console()
    try:
        found = run_demo(options, data, console)
    except (OSError, ValueError, EngineFailed) as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        raise typer.Exit(1) from None
    for row in found:
        if row.decode_speed_up and row.end_to_end_speed_up:
            console.print(
                f"{row.task}: SpecFLASH decodes {row.decode_speed_up.median:.2f}x as fast as plain vLLM, "
                f"{row.end_to_end_speed_up.median:.2f}x end to end.",
                style="bold",
            )
