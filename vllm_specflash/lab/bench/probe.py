"""Where a step's time goes, seen from inside vLLM's worker.

vLLM mixes StepProbe into its worker class when an engine is built with `worker_extension_cls=PROBE`; the harness reaches
it by collective_rpc, in whichever process the worker lives. It works on plain vLLM and on ours alike.
"""

import os
import time
from dataclasses import asdict
from functools import wraps
from types import SimpleNamespace

from vllm_specflash.lab.bench.records import Steps, StepTotals

PROBE = "vllm_specflash.lab.bench.probe.StepProbe"
_NO_STATS = SimpleNamespace(errors=0, verify_seconds=0.0)


class StepProbe:
    """Methods added to a vLLM worker."""

    def bench_install(self) -> None:
        """Time the model runner's phases from now on."""
        self._bench_clock = _Clock(self.model_runner)

    def bench_settle(self) -> None:
        """Repeat what was measured at start: other engines may have been loading at the time."""
        measure = getattr(self, "measure_step_cost", None)
        if measure is not None:
            measure()

    def bench_take(self) -> dict:
        """Totals since the last call, as records.Steps in dict form."""
        return asdict(self._bench_clock.take())

    def bench_memory(self) -> dict:
        """Resident bytes of this process, bytes of KV per token slot, and slots."""
        # In the worker: whoever names the probe has no need of vLLM.
        from vllm_specflash.engine.attention_layers import attention_layers

        slots = self.model_runner.kv_cache_config.num_blocks * self.vllm_config.cache_config.block_size
        # Layers of several groups share bytes, layers of one may share a tensor.
        caches = [layer.kv_cache.untyped_storage() for layer in attention_layers(self.vllm_config)]
        total = sum({cache.data_ptr(): cache.nbytes() for cache in caches}.values())
        return {"pid": os.getpid(), "resident_bytes": _resident_bytes(), "kv_bytes_per_slot": total / slots, "slots": slots}

    def bench_threads(self) -> int:
        import torch

        return torch.get_num_threads()


def _resident_bytes() -> int:
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class _Clock:
    """Wraps methods of one model runner, and of what drafts for it: `drafter` on V1, `speculator` on V2, neither in plain vLLM."""

    def __init__(self, runner):
        self._drafter = getattr(runner, "drafter", None) or getattr(runner, "speculator", None)
        self._steps = Steps()
        self._current = StepTotals()
        self._began: float | None = None
        self._inside = 0.0
        self._errors = self._draft_stats().errors
        self._verify_seconds = self._draft_stats().verify_seconds
        # V2 has no method for the target's forward: there it is all that comes before sampling.
        forward = "_model_forward" if hasattr(runner, "_model_forward") else "execute_model"
        setattr(runner, forward, self._timed(getattr(runner, forward), self._add_forward))
        runner.execute_model = self._around_step(runner.execute_model)
        runner.sample_tokens = self._timed(runner.sample_tokens, self._add_worker)
        if hasattr(runner, "drafter"):
            runner.propose_draft_token_ids = self._around_draft(runner.propose_draft_token_ids)
        elif self._drafter is not None:
            self._drafter.propose = self._around_draft(self._drafter.propose)

    def take(self) -> Steps:
        self._close(None)
        taken, self._steps = self._steps, Steps()
        errors = self._draft_stats().errors
        taken.draft_errors, self._errors = errors - self._errors, errors
        return taken

    def _draft_stats(self):
        return getattr(self._drafter, "stats", _NO_STATS)

    def _around_step(self, execute_model):
        @wraps(execute_model)
        def wrapped(scheduler_output, *args, **kwargs):
            if not scheduler_output.total_num_scheduled_tokens:
                return execute_model(scheduler_output, *args, **kwargs)
            began = time.perf_counter()
            # Before a step with new requests the engine may have been idle: that wait belongs to nobody.
            self._close(None if scheduler_output.scheduled_new_reqs else began)
            self._open(scheduler_output, began)
            try:
                return execute_model(scheduler_output, *args, **kwargs)
            finally:
                self._add_worker(time.perf_counter() - began)

        return wrapped

    def _around_draft(self, propose):
        stats = getattr(self._drafter, "stats", None)

        @wraps(propose)
        def wrapped(*args, **kwargs):
            network = stats.network_seconds if stats else 0.0
            verified = self._verify_seconds
            began = time.perf_counter()
            try:
                return propose(*args, **kwargs)
            finally:
                self._current.draft_seconds += time.perf_counter() - began
                if stats:
                    self._current.network_seconds += stats.network_seconds - network
                    # This step's drafts were verified before it came to drafting.
                    self._current.verify_seconds += stats.verify_seconds - verified
                    self._verify_seconds = stats.verify_seconds

        return wrapped

    @staticmethod
    def _timed(method, add):
        @wraps(method)
        def wrapped(*args, **kwargs):
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                add(time.perf_counter() - began)

        return wrapped

    def _open(self, scheduler_output, began: float) -> None:
        drafts = scheduler_output.scheduled_spec_decode_tokens
        scheduled = scheduler_output.num_scheduled_tokens
        new = len(scheduler_output.scheduled_new_reqs)
        decodes = sum(count == 1 + len(drafts.get(req_id, ())) for req_id, count in scheduled.items())
        pure = not new and decodes == len(scheduled)
        self._current = self._steps.decode if pure else self._steps.prefill
        self._current.steps += 1
        self._steps.request_steps += max(0, decodes - new)
        self._began, self._inside = began, 0.0

    def _close(self, now: float | None) -> None:
        """End the open step at `now`, or, where no step followed, with its last moment in the worker."""
        if self._began is not None:
            self._current.wall_seconds += self._inside if now is None else now - self._began
            self._began = None

    def _add_worker(self, seconds: float) -> None:
        self._inside += seconds
        self._current.worker_seconds += seconds

    def _add_forward(self, seconds: float) -> None:
        self._current.forward_seconds += seconds
