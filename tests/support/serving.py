"""A real `vllm serve` on this machine, for as long as a block lasts."""

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from vllm_specflash.lab.serving.server import Server, metric

# 25 s on two free cores; far longer where others compute on them.
STARTUP_SECONDS = 1800
# Sum of a counter or gauge over its labels, by the server's address and the metric's name without `_total`.
counter = metric


def samples(address: str) -> list[tuple[str, dict[str, str], float]]:
    """All of a server's metrics: name, labels, value."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return [(sample.name, sample.labels, sample.value) for family in families for sample in family.samples]


@contextmanager
def serve(target: Path, log: Path, *arguments: str, **environment: str) -> Iterator[str]:
    """Address of a server of the model "tiny", once it answers; its output goes to `log`."""
    options = ["--served-model-name", "tiny", *arguments]
    with Server(str(target), options, log, STARTUP_SECONDS, environment) as server:
        yield server.address
