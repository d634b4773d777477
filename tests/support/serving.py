"""A real `vllm serve` on this machine, for as long as a block lasts."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_specflash.soak.server import Server, metric

# 25 s on two free cores; far longer where others compute on them.
STARTUP_SECONDS = 1800
# Sum of a counter or gauge over its labels, by the server's address and the metric's name without `_total`.
counter = metric


@contextmanager
def serve(target: Path, log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Address of a server of the model "tiny", once it answers; its output goes to `log`."""
    options = ["--served-model-name", "tiny", *arguments]
    with Server(str(target), options, log, STARTUP_SECONDS, environment) as server:
        yield server.address
