"""Whether a machine, its vLLM, a target and a draft fit together, and what to do where they do not."""

from collections.abc import Iterator

from vllm_specflash.lab.bench.doctor.checkpoints import examine_draft, examine_target
from vllm_specflash.lab.bench.doctor.engine import examine_memory, examine_requests, examine_step_costs, examine_together
from vllm_specflash.lab.bench.doctor.finding import FAULT, NOTE, OK, Finding, guarded
from vllm_specflash.lab.bench.doctor.machine import (
    examine_kernels,
    examine_machine,
    examine_plugin,
    examine_torch,
    examine_vllm,
)
from vllm_specflash.lab.bench.doctor.server import examine_server
from vllm_specflash.lab.bench.doctor.trial import examine_trial

__all__ = ["FAULT", "NOTE", "OK", "Finding", "examine", "examine_server"]


def examine(target: str | None = None, draft: str | None = None) -> Iterator[Finding]:
    """Findings in an order in which each rests on those before it; what cannot be judged any more is left out.

    Args:
        target: folder or hub id; None for the machine and vLLM alone.
        draft: folder or hub id; None for the target's own.
    """
    yield guarded("machine", examine_machine)
    yield guarded("torch", examine_torch)
    vllm = guarded("vLLM", examine_vllm)
    yield vllm
    if vllm.state == FAULT:
        return
    plugin = guarded("plugin", examine_plugin)
    yield plugin
    yield guarded("kernels", examine_kernels)
    if target is None:
        return
    of_target = guarded("target", lambda: examine_target(target))
    of_draft = guarded("draft", lambda: examine_draft(target, draft))
    yield from (of_target, of_draft)
    if of_draft.state != FAULT:
        of_draft = guarded("trial", lambda: examine_trial(target, draft))
        yield of_draft
    if FAULT in (plugin.state, of_target.state, of_draft.state):
        return
    together = guarded("together", lambda: examine_together(target, draft))
    yield together
    if together.state != FAULT:
        yield guarded("memory", lambda: examine_memory(target, draft))
        yield guarded("step costs", lambda: examine_step_costs(target, draft))
        yield guarded("requests", lambda: examine_requests(target, draft))
