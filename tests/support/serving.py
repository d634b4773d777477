"""A real `vllm serve` on this machine, for as long as a block lasts."""

import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from vllm_specflash.lab.serving.server import Server, _free_port, metric

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


@contextmanager
def started(command: Sequence[str], folder: Path, log: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """Address of the server that a command starts in a folder, of whatever environment it is, once it answers."""
    port = _free_port()
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)], cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + STARTUP_SECONDS
        while True:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-4000:]
            try:
                with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        # The whole session of this server and nothing else; it may have ended by itself.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
