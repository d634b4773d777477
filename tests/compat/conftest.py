"""Sources of published vLLM releases, read out of their wheels piece by piece.

A wheel is a zip of several hundred megabytes, nearly all of it compiled kernels. Its index and the few modules wanted
are fetched by range requests, from wherever pip says the wheel is, and kept in ~/.cache/vllm_specflash/compat.
"""

import io
import json
import os
import subprocess
import sys
import zipfile
from functools import cached_property
from pathlib import Path

import pytest
import requests

from vllm_specflash.lab.cache import cache_root

RELEASES = ("0.26.0", "0.30.0", "0.33.0")
PIECE = 2**18


class Offline(Exception):
    """A release is neither cached nor to be had from here."""


class RemoteFile(io.RawIOBase):
    """A seekable file over an address whose server answers range requests."""

    def __init__(self, address: str):
        self.address, self.position, self.session = address, 0, requests.Session()
        head = self._get("bytes=0-0")
        self.size = int(head.headers["Content-Range"].rsplit("/", 1)[1])

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer) -> int:
        stop = min(self.position + len(buffer), self.size)
        if stop <= self.position:
            return 0
        content = self._get(f"bytes={self.position}-{stop - 1}").content
        buffer[: len(content)] = content
        self.position += len(content)
        return len(content)

    def _get(self, wanted: str) -> requests.Response:
        answer = self.session.get(self.address, headers={"Range": wanted}, timeout=60)
        answer.raise_for_status()
        if answer.status_code != requests.codes.partial_content:
            raise Offline("the server of the wheel answers no range requests")
        return answer


class Release:
    """Modules of one vLLM release by dotted name, as text."""

    def __init__(self, version: str):
        self.version = version
        self.folder = cache_root() / "compat" / version

    def source(self, module: str) -> str | None:
        """Text of a module, None if the release has no such module.

        Raises:
            Offline: not cached, and no network to fetch it with.
        """
        path = module.replace(".", "/")
        for candidate in (f"{path}.py", f"{path}/__init__.py"):
            text = self._file(candidate)
            if text is not None:
                return text
        return None

    def _file(self, path: str) -> str | None:
        if path not in self._listing:
            return None
        cached = self.folder / path
        if not cached.is_file():
            _write(cached, self._read(path))
        return cached.read_text(encoding="utf-8")

    @cached_property
    def _listing(self) -> set[str]:
        """Paths of the wheel's Python files."""
        cached = self.folder / "listing.json"
        if not cached.is_file():
            names = [name for name in self._online(lambda: self._wheel.namelist()) if name.endswith(".py")]
            _write(cached, json.dumps(names).encode())
        return set(json.loads(cached.read_text()))

    @cached_property
    def _wheel(self) -> zipfile.ZipFile:
        return zipfile.ZipFile(io.BufferedReader(RemoteFile(_address(self.version)), PIECE))

    def _read(self, path: str) -> bytes:
        return self._online(lambda: self._wheel.read(path))

    def _online(self, fetch):
        try:
            return fetch()
        except (requests.RequestException, subprocess.SubprocessError) as error:
            raise Offline(f"vLLM {self.version} is not cached and cannot be fetched ({type(error).__name__})") from error


def _address(version: str) -> str:
    """Where pip would download the wheel from, by its own configuration; pip fetches the metadata alone."""
    command = [sys.executable, "-m", "pip", "--quiet", "--no-input", "install", f"vllm=={version}"]
    command += ["--dry-run", "--no-deps", "--ignore-installed", "--only-binary=:all:", "--report=-"]
    command += ["--ignore-requires-python", "--retries=1", "--timeout=20"]
    report = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True, timeout=300)
    return json.loads(report.stdout)["install"][0]["download_info"]["url"]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(path)


@pytest.fixture(scope="session", params=RELEASES)
def release(request) -> Release:
    """One release after the other; skipped where it is neither cached nor reachable."""
    release = Release(request.param)
    try:
        release.source("vllm")
    except Offline as error:
        pytest.skip(f"offline: {error}")
    return release
