"""The draft side's counters as metrics of vLLM's front end, `vllm:specflash_*` beside vLLM's own.

They arise in a worker's process and are asked for in an API server's. Between the two lies prometheus_client's own
format for that, small memory-mapped files in a folder. Where vLLM has several API servers it has set up such a folder,
and each of them reads it. Where it has one, the folder is our own, and that process's registry reads it as well.

Nothing here may stop an engine: what fails is logged, and the metrics are missing or stand still.
"""

import os
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import REGISTRY
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from vllm.logger import init_logger

from vllm_specflash.engine.stats import ACCEPTANCE_HELP, ACCEPTANCE_LENGTH, DraftStats

logger = init_logger("vllm.specflash")

# Weight of the past in the gauge, per step.
DECAY = 0.99
# More than a file needs. It is given all of it at once: a full disk must not meet whoever writes to it later.
FILE_BYTES = 1 << 16


class MetricsFiles:
    """What one worker leaves in a folder: a file of counters and one of gauges.

    Args:
        folder: of `metrics_folder()`.
        labels: of every metric.

    Raises:
        OSError: the folder is not on this machine, or there is no room in it.
    """

    def __init__(self, folder: Path, labels: dict[str, str]):
        names, values = list(labels), list(labels.values())
        self._keys = {
            name: mmap_key(metric, f"{metric}_total", names, values, description)
            for name, metric, description in DraftStats.described()
        }
        self._gauge_key = mmap_key(ACCEPTANCE_LENGTH, ACCEPTANCE_LENGTH, names, values, ACCEPTANCE_HELP)
        # What a file holds is told by the first part of its name. The process may have files of its own metrics there.
        self._counters = _new_file(folder, f"counter_specflash-{os.getpid()}.db", self._keys.values())
        self._gauges = _new_file(folder, f"gauge_mostrecent_specflash-{os.getpid()}.db", [self._gauge_key])
        self._written = DraftStats().totals()
        self._decodes = self._tokens = 0.0

    def write(self, totals: dict[str, float]) -> None:
        """Make the totals of DraftStats readable."""
        before, now = self._written, time.time()
        self._decodes = DECAY * self._decodes + totals["decodes"] - before["decodes"]
        self._tokens = DECAY * self._tokens + totals["decoded_tokens"] - before["decoded_tokens"]
        for name, total in totals.items():
            if total != before[name]:
                self._counters.write_value(self._keys[name], total, now)
        if self._decodes:
            self._gauges.write_value(self._gauge_key, self._tokens / self._decodes, now)
        self._written = totals


def _new_file(folder: Path, name: str, keys: Iterable[str]) -> MmapedDict:
    """With zeros at all keys. Readers take files that begin with no dot, so they never see it half done."""
    unfinished = folder / f".{name}"
    with open(unfinished, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, FILE_BYTES)
    values = MmapedDict(str(unfinished))
    for key in keys:
        values.read_value(key)
    unfinished.rename(folder / name)
    return values


class WorkerMetrics:
    """A worker's end.

    Args:
        config: vLLM's, of the engine.
    """

    def __init__(self, config):
        self._files: MetricsFiles | None = None
        folder = config.speculative_config.metrics_folder
        # Named and filled as those of vLLM's own metrics.
        labels = {
            "model_name": config.model_config.served_model_name,
            "engine": str(config.parallel_config.data_parallel_index),
        }
        if folder is not None:
            try:
                self._files = MetricsFiles(Path(folder), labels)
            except Exception as error:
                logger.warning("Engine %s has no metrics vllm:specflash_* (%s).", labels["engine"], error)

    def publish(self, stats: DraftStats) -> None:
        if self._files is None:
            return
        try:
            self._files.write(stats.totals())
        except Exception:
            logger.exception("The metrics vllm:specflash_* stand still from here on.")
            self._files = None


class FolderCollector(Collector):
    """The API server's end where vLLM has set up no folder, and that folder."""

    def __init__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="vllm-specflash-metrics-")
        self.path = self._folder.name
        self._failed = False

    def describe(self) -> list:
        """Nothing is known before a worker has started; without this, registering would collect."""
        return []

    def collect(self) -> list:
        try:
            return list(MultiProcessCollector(None, self.path).collect())
        except Exception:
            if not self._failed:
                logger.exception("The metrics vllm:specflash_* could not be read.")
            self._failed = True
            return []

    def close(self) -> None:
        self._folder.cleanup()


_registered: FolderCollector | None = None


def metrics_folder() -> str | None:
    """Where the workers of the engine about to be built leave their metrics; None where they cannot.

    As with vLLM's own, the metrics of a process are those of its newest engine.
    """
    global _registered
    of_vllm = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    if of_vllm is not None:
        return of_vllm
    try:
        if _registered is not None:
            REGISTRY.unregister(_registered)
            _registered.close()
        _registered = None
        collector = FolderCollector()
        REGISTRY.register(collector)
        _registered = collector
        return collector.path
    except Exception:
        logger.exception("There are no metrics vllm:specflash_*.")
        return None
