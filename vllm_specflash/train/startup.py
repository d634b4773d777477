"""An offline engine of vLLM's that asks for the memory it needs, and says in one sentence why it did not start."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vllm_specflash.config import SpecFlashError, first_sentence

# What a traceback ends with, behind whatever a log puts before it.
RAISED = re.compile(r"(?:^|[\])] )(?:\w+\.)*(\w*(?:Error|Exception)): (\S.*)$", re.MULTILINE)
# vLLM's processes report each other's ends; the cause is what was raised before.
REPORTS = ("Engine core initialization failed", "WorkerProc initialization failed", "Engine core proc", "EngineCore encountered an issue")
MORE = "give the KV cache more (VLLM_CPU_KVCACHE_SPACE on a CPU, gpu_memory_utilization on a GPU) or lower the maximum length"
# Of the causes that have to do with memory: what vLLM says, and what is to be done.
ADVICE = (
    ("Available memory on node", "set VLLM_CPU_KVCACHE_SPACE to the GiB that the KV cache may take"),
    ("Free memory on device", "lower gpu_memory_utilization, or end what else uses the device"),
    ("KV cache is needed", MORE),
    ("No available memory for the cache blocks", MORE),
)


def cpu_kv_cache(config, sequences: int, length: int, bytes_per_value: int = 2) -> dict[str, int]:
    """vLLM's argument for the KV cache of so many sequences of that length, where the engine runs on a CPU.

    At most half of what is free is asked for: fewer sequences then run at a time. Nothing is asked for on a GPU, whose
    memory is the engine's alone, nor where VLLM_CPU_KVCACHE_SPACE says how much.

    Args:
        config: the target's, from transformers.
    """
    from vllm.platforms import current_platform

    if not current_platform.is_cpu() or os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        return {}
    # vLLM itself needs psutil.
    import psutil

    wanted = sequences * length * kv_bytes(config, bytes_per_value)
    return {"kv_cache_memory_bytes": min(wanted, psutil.virtual_memory().available // 2)}


def kv_bytes(config, bytes_per_value: int = 2) -> int:
    """Of the KV cache, what a token takes, the draft's layer included; config as above."""
    text = config.get_text_config()
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2 * (text.num_hidden_layers + 1) * heads * head_dim * bytes_per_value


def start_engine(log: Path, **arguments):
    """`vllm.LLM(**arguments)`, its output in `log`.

    Raises:
        SpecFlashError: it did not start; the sentence has vLLM's own cause and the log's place.
    """
    try:
        with output_to(log):
            from vllm import LLM

            return LLM(**arguments)
    except SpecFlashError:
        raise
    except Exception as error:
        text = log.read_text(encoding="utf-8", errors="replace")
        raised = cause(text) or cause(f"{type(error).__name__}: {' '.join(str(error).split())}")
        raise SpecFlashError(why_not(arguments["model"], raised or repr(error), log)) from error


@contextmanager
def alive(target: str) -> Iterator[None]:
    """What asks a started engine, and says in one sentence that it died meanwhile.

    Raises:
        SpecFlashError: it did.
    """
    from vllm.v1.engine.exceptions import EngineDeadError

    try:
        yield
    except EngineDeadError as error:
        raise SpecFlashError(
            f"vLLM's engine of {target} ended while it answered, most often for want of memory: repeat the command, which goes on where "
            "it was, with less beside it."
        ) from error


def why_not(target: str, raised: str, log: Path) -> str:
    """One sentence about an engine that did not start or died."""
    advice = next((f"{what}; " for said, what in ADVICE if said in raised), "")
    return f"vLLM failed for {target}: {raised}; {advice}its log is {log}."


def cause(text: str) -> str | None:
    """The last error in a log that is not vLLM's report of another, shortened to what it says first; None if there is none."""
    found = [f"{name}: {said}" for name, said in RAISED.findall(text) if not said.startswith(REPORTS)]
    if not found:
        return None
    # pydantic says how many fields are wrong before it says what is.
    return re.sub(r"^ValidationError: \d+ validation errors? for \w+ (Value error, )?", "", first_sentence(found[-1]))


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """This process's output, and that of processes it starts meanwhile, goes to a file until the block ends."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor, kept = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644), (os.dup(1), os.dup(2))
    try:
        for stream in (1, 2):
            os.dup2(descriptor, stream)
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for stream, original in zip((1, 2), kept):
            os.dup2(original, stream)
            os.close(original)
        os.close(descriptor)
