"""Where assembled checkpoints live, and how a folder appears there all at once or not at all."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path


def cache_root(cache_dir: str | os.PathLike | None = None) -> Path:
    """`cache_dir`, else $SPECFLASH_CACHE, else ~/.cache/vllm_specflash."""
    return Path(cache_dir or os.environ.get("SPECFLASH_CACHE") or "~/.cache/vllm_specflash").expanduser()


def build_once(folder: Path, build: Callable[[Path], None]) -> Path:
    """Return `folder`, calling `build(scratch)` first if it does not exist.

    The scratch folder is renamed into place when complete, so that a reader never sees half a checkpoint and two
    processes that build at once both end with a whole one.
    """
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        build(scratch)
        scratch.chmod(0o755)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder
