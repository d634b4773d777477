"""Greedy answers of SpecFLASH against plain vLLM's, many prompts of all kinds in one batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.config import METHOD
from vllm_specflash.lab.bench.console import Announce
from vllm_specflash.lab.bench.identity import Agreement, compare
from vllm_specflash.lab.bench.method import PLAIN, Method, parse_method
from vllm_specflash.lab.bench.option import DTYPES, option
from vllm_specflash.lab.bench.schedule import Plan, close_engines, start_engines
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.train.prompts import Prompt


@dataclass(frozen=True)
class IdentityOptions:
    """How answers are compared."""

    prompts: int = option(200, "Prompts, all tasks in turns.", min=1)
    max_tokens: int = option(96, "Cut answers here.", min=1)
    max_num_seqs: int = option(16, "Requests that run together, joining and leaving.", min=1)
    dtype: str = option("float32", "Rounding of bfloat16 makes plain vLLM differ from itself.", choices=DTYPES)
    enforce_eager: bool = option(False, "Without compilation: starts sooner.")
    kv_cache_gib: float = option(1.0, "KV budget of both engines.", min=0.001)
    method: str = option(METHOD, "specflash, or specflash={...}: a speculative_config as JSON.")
    engine_args: str = option("{}", "More of vLLM's engine arguments, for both, as JSON.")


@dataclass(frozen=True)
class IdentityResult:
    """Agreement over all prompts and per task, and the tokens that were drafted and accepted meanwhile."""

    agreement: Agreement
    by_task: dict[str, Agreement]
    mean_length: float
    draft_tokens: int
    accepted_tokens: int
    draft_errors: int


def check_identity(
    target: Target, prompts: Sequence[Prompt], options: IdentityOptions, logs: Path, announce: Announce
) -> IdentityResult:
    """Answer the prompts with plain vLLM, then with SpecFLASH.

    Raises:
        EngineFailed: an engine did not start or died.
        ValueError: the method or the engine arguments are not what they should be.
    """
    method = parse_method(options.method, target.draft)
    plan = Plan(
        dtype=options.dtype,
        enforce_eager=options.enforce_eager,
        kv_cache_gib=options.kv_cache_gib,
        engine_args=options.engine_args,
    )
    setups = {
        one.name: plan.setup(target, one, options.max_num_seqs)
        for one in (Method(PLAIN, None), method)
    }
    engines = start_engines({f"{target.name}/{name}": setup for name, setup in setups.items()}, logs, announce)
    try:
        passes = {}
        for name in setups:
            announce(f"{target.name}: {len(prompts)} prompts by {name}")
            engine = engines[f"{target.name}/{name}"]
            passes[name] = engine.generate(prompts, len(prompts), options.max_tokens, logits=name == PLAIN)
    finally:
        close_engines(engines)
    reference = {output.prompt_id: output for output in passes[PLAIN].outputs}
    ours = passes[method.name]
    tasks = {prompt.id: prompt.task for prompt in prompts}
    by_task = {
        task: compare(reference, [output for output in ours.outputs if tasks[output.prompt_id] == task])
        for task in dict.fromkeys(tasks.values())
    }
    return IdentityResult(
        agreement=compare(reference, ours.outputs),
        by_task=by_task,
        mean_length=ours.mean_length,
        draft_tokens=ours.drafts.draft_tokens,
        accepted_tokens=ours.drafts.accepted_tokens,
        draft_errors=ours.steps.draft_errors,
    )
