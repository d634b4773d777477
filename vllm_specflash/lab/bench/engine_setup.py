"""How an engine of a benchmark is built, and what is known once it is."""

from dataclasses import dataclass, field
from typing import Any

from vllm_specflash.lab.bench.probe import PROBE

GIB = 2**30


@dataclass(frozen=True)
class EngineSetup:
    """How an engine is built; everything but `speculative_config` is the same for all that are compared."""

    target: str
    speculative_config: dict[str, Any] | None = None
    dtype: str = "bfloat16"
    max_model_len: int = 2048
    max_num_seqs: int = 8
    kv_cache_gib: float = 1.0
    enforce_eager: bool = False
    max_images: int = 8
    ignore_eos: bool = False
    extra: dict[str, Any] = field(default_factory=dict)

    def engine_args(self) -> dict[str, Any]:
        return {
            "model": self.target,
            "speculative_config": self.speculative_config,
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "kv_cache_memory_bytes": int(self.kv_cache_gib * GIB),
            "enforce_eager": self.enforce_eager,
            "limit_mm_per_prompt": {"image": self.max_images},
            # A repeat must do the work of the first time.
            "enable_prefix_caching": False,
            # An image seen before must be processed again, too.
            "mm_processor_cache_gb": 0,
            "disable_log_stats": False,
            # Where logprobs are asked for, give logits: ties are judged in steps of the logit itself.
            "logprobs_mode": "raw_logits",
            "worker_extension_cls": PROBE,
            "seed": 0,
            **self.extra,
        }


@dataclass(frozen=True)
class EngineFacts:
    """What is known about a started engine."""

    start_seconds: float
    threads: int
    resident_bytes: int
    kv_bytes_per_slot: float
    slots: int
