"""What SpecFLASH costs beside time: KV per token slot, resident memory, and host time."""

from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.lab.bench.engine_setup import EngineFacts

MIB = 2**20


@dataclass(frozen=True)
class Footprint:
    """One engine against plain vLLM with the same KV budget.

    Attributes:
        kv_bytes_per_slot: of plain vLLM.
        kv_overhead: the draft's KV as a share of it.
        resident_overhead_mib: resident memory of the engine's process over plain vLLM's.
        draft_mib: the draft's weights as they lie in memory; None where there is no draft checkpoint.
    """

    kv_bytes_per_slot: float
    kv_overhead: float
    resident_overhead_mib: float
    draft_mib: float | None


def footprint(plain: EngineFacts, other: EngineFacts, draft_mib: float | None) -> Footprint:
    return Footprint(
        kv_bytes_per_slot=plain.kv_bytes_per_slot,
        kv_overhead=other.kv_bytes_per_slot / plain.kv_bytes_per_slot - 1,
        resident_overhead_mib=(other.resident_bytes - plain.resident_bytes) / MIB,
        draft_mib=draft_mib,
    )


def draft_weights_mib(folder: Path, bytes_per_value: int) -> float:
    """Weights of a checkpoint in the engine's dtype; integer maps keep theirs."""
    from safetensors import safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():
                slice_ = tensors.get_slice(name)
                count = 1
                for size in slice_.get_shape():
                    count *= size
                total += count * (8 if slice_.get_dtype().startswith("I") else bytes_per_value)
    return total / MIB
