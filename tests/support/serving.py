"""A real `vllm serve` on this machine, for as long as a block lasts."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# 25 s on two free cores; far longer where others compute on them.
STARTUP_SECONDS = 1800


@contextmanager
def serve(target: Path, log: Path, *arguments: str) -> Iterator[str]:
    """Address of the server, once it answers; its output goes to `log`."""
    port = _free_port()
    command = [str(Path(sys.executable).with_name("vllm")), "serve", str(target), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--served-model-name", "tiny", *arguments]
    environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=log.parent, env=environment)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_until_healthy(address, server, log)
            yield address
        finally:
            server.terminate()
            try:
                server.wait(30)
            except subprocess.TimeoutExpired:
                server.kill()


def counter(address: str, name: str) -> float:
    """Sum of a counter over its labels, from the server's /metrics."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((f"{name}_total{{", f"{name}{{")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_healthy(address: str, server: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + STARTUP_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RuntimeError(f"vllm serve ended with {server.returncode}:\n{log.read_text()[-4000:]}")
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise RuntimeError(f"vllm serve did not answer within {STARTUP_SECONDS} s:\n{log.read_text()[-4000:]}")
