"""A `vllm serve` of our own: started, watched from outside, stopped."""

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from vllm_specflash.train.startup import cause

POLL_SECONDS = 0.5
STOP_SECONDS = 30


class ServerFailed(RuntimeError):
    """The server did not start or did not answer; the message has the cause, or the last lines of its log."""


def metric(address: str, name: str) -> float:
    """A metric of a server summed over its labels; counters by their name without `_total`."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    pattern = re.compile(rf"{re.escape(name)}(_total)?(\{{.*\}})? (\S+)$")
    return sum(float(found[3]) for found in map(pattern.match, lines) if found)


class Server:
    """Started when the block begins, once it answers; gone when the block ends.

    Args:
        model: folder or hub id.
        arguments: further ones of `vllm serve`.
        log: file for its output.
        startup_seconds: how long it may take to answer.
        environment: variables to set for it.

    Raises:
        ServerFailed: it ended, or took longer.
    """

    def __init__(
        self,
        model: str,
        arguments: Sequence[str],
        log: Path,
        startup_seconds: float = 900,
        environment: dict[str, str] | None = None,
    ):
        self.log, self.startup_seconds = log, startup_seconds
        # The server's engine always has a process of its own, whatever this process wants for its engines.
        self._environment = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", **(environment or {})}
        if "--kv-cache-memory-bytes" in arguments:
            # On CPUs vLLM would take this over the argument.
            self._environment.pop("VLLM_CPU_KVCACHE_SPACE", None)
        port = _free_port()
        self.address = f"http://127.0.0.1:{port}"
        self._command = [str(Path(sys.executable).with_name("vllm")), "serve", model, "--host", "127.0.0.1"]
        self._command += ["--port", str(port), *arguments]

    def __enter__(self) -> "Server":
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("w") as output:
            self._process = psutil.Popen(self._command, stdout=output, stderr=subprocess.STDOUT, env=self._environment)
        try:
            self._wait_until_healthy()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_) -> None:
        family = self._family()
        # It may have ended by itself, as may any of its processes meanwhile.
        with suppress(psutil.NoSuchProcess):
            self._process.terminate()
        _, alive = psutil.wait_procs(family, STOP_SECONDS)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def metric(self, name: str) -> float:
        """As `metric` has it.

        Raises:
            ServerFailed: it ended; why is for its log to say, where refused requests have left errors as well.
            OSError: it does not answer.
        """
        try:
            return metric(self.address, name)
        except OSError:
            if self.alive:
                raise
        raise ServerFailed(f"vllm serve ended with {self._process.returncode} under load; its log is {self.log}.")

    def resident_bytes(self) -> int:
        """Resident memory of all its processes."""
        return sum(_resident(process) for process in self._family())

    def _family(self) -> list[psutil.Process]:
        try:
            return [self._process, *self._process.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _wait_until_healthy(self) -> None:
        deadline = time.monotonic() + self.startup_seconds
        while time.monotonic() < deadline:
            if not self.alive:
                raise ServerFailed(f"vllm serve ended with {self._process.returncode}{self._why()}")
            try:
                with urllib.request.urlopen(f"{self.address}/health", timeout=5):
                    return
            except OSError:
                time.sleep(POLL_SECONDS)
        raise ServerFailed(f"vllm serve did not answer within {self.startup_seconds:.0f} s{self._why()}")

    def _why(self, count: int = 20) -> str:
        """The cause that the log tells, on the same line; the log's last lines where it tells none."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        if raised := cause(text):
            return f": {raised}; its log is {self.log}."
        return "\n".join([".", f"The end of {self.log}:", *text.splitlines()[-count:]])


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
