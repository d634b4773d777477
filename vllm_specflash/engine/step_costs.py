"""What an engine measured of its target at start, kept beside vLLM's compile cache for its next start."""

import hashlib
import json
import os
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path

import torch
import vllm
from vllm import envs
from vllm.logger import init_logger
from vllm.platforms import current_platform

from vllm_specflash.machine import processor

logger = init_logger("vllm.specflash")

FOLDER = "specflash_step_costs"


def folder() -> Path:
    return Path(envs.VLLM_CACHE_ROOT) / FOLDER


def identity_of(vllm_config) -> dict:
    """Everything that a step's cost may depend on: the target, how it is served, the device, and versions."""
    on_cpu = current_platform.is_cpu()
    model, scheduler, speculation = vllm_config.model_config, vllm_config.scheduler_config, vllm_config.speculative_config
    draft = Path(speculation.specflash.model) / "config.json"
    return {
        "model": str(model.model),
        "revision": model.revision,
        "dtype": str(model.dtype),
        "configuration": vllm_config.compute_hash(),
        "eager": model.enforce_eager,
        "block_size": vllm_config.cache_config.block_size,
        "batched_tokens": scheduler.max_num_batched_tokens,
        "requests": scheduler.max_num_seqs,
        # Side paths take their time where drafts may be trees, and a draft's time is one of the things that are measured.
        "drafts": [speculation.num_speculative_tokens, speculation.trees, draft.read_text(encoding="utf-8")],
        "v2": vllm_config.use_v2_model_runner,
        "device": processor() if on_cpu else current_platform.get_device_name(),
        "threads": torch.get_num_threads() if on_cpu else None,
        "versions": {"vllm": vllm.__version__, "torch": torch.__version__, "vllm-specflash": version("vllm-specflash")},
    }


class StepCosts:
    """The file of one engine's measurements, named by a digest of all that they depend on.

    VLLM_DISABLE_COMPILE_CACHE switches it off, as it does vLLM's own.

    Attributes:
        path: where it is, or would be; None for an engine that nothing can be kept for.
    """

    def __init__(self, vllm_config):
        self.path: Path | None = None
        if envs.VLLM_DISABLE_COMPILE_CACHE:
            return
        # A configuration may hold things that have no digest: no reason not to start.
        try:
            self._identity = identity_of(vllm_config)
            digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()
            self.path = folder() / f"{digest[:20]}.json"
        except Exception:
            logger.debug("SpecFLASH keeps nothing of what it measures of this engine.", exc_info=True)

    def read(self) -> dict | None:
        """What `write` was given, by this process or an earlier one; None where there is nothing whole."""
        if self.path is None:
            return None
        kept = _whole(self.path)
        return kept["measured"] if kept and kept["identity"] == self._identity else None

    def write(self, measured: dict) -> None:
        """Keep what was measured, numbers and lists of them by name. An engine whose cache cannot be written goes on without."""
        if self.path is None:
            return
        kept = {"identity": self._identity, "time": datetime.now(timezone.utc).isoformat(timespec="seconds"), "measured": measured}
        scratch = self.path.with_suffix(f".{os.getpid()}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(kept), encoding="utf-8")
            os.replace(scratch, self.path)
        except OSError as error:
            logger.warning("SpecFLASH could not keep what it measured in %s (%s): the next start measures again.", self.path, error)


def kept_for(model: str) -> list[dict]:
    """What is kept of engines with a target of that name, newest first: `identity`, `time` and `measured`."""
    found = [kept for path in folder().glob("*.json") if (kept := _whole(path)) and kept["identity"].get("model") == model]
    return sorted(found, key=lambda kept: kept["time"], reverse=True)


def _whole(path: Path) -> dict | None:
    """What a file holds, as `StepCosts.write` wrote it; None where it is missing or damaged."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        sound = isinstance(kept["identity"], dict) and isinstance(kept["time"], str) and {"tokens", "seconds"} <= set(kept["measured"])
        return kept if sound else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
