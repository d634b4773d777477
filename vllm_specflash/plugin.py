"""register(): vLLM's general-plugin entry point, and the only module that puts methods of its own on vLLM's classes.

vLLM calls it in every process, before it parses a command line or builds a config. Three methods of EngineArgs are
wrapped so that `speculative_config` may say "specflash"; everything else happens in subclasses that vLLM is told
to use only for engines that ask for it.
"""

import functools
import importlib.util
import logging
import sys
from argparse import ArgumentTypeError
from pathlib import Path
from typing import Literal, get_args

from vllm_specflash import compat
from vllm_specflash.config import METHOD, SpecFlashError, is_draft, names_specflash, refuse_almost_specflash

logger = logging.getLogger("vllm.specflash")

_MARK = "_specflash_wrapped"


def register() -> None:
    """Make "specflash" a speculative method of this process's vLLM; on an unknown vLLM, log one error instead."""
    _hide_own_kernels_from_probes()
    try:
        fault = compat.problem()
    except Exception as error:
        fault = f"SpecFLASH stays inactive because its check of this vLLM failed: {error!r}."
    if fault:
        logger.error(fault)
        return
    from vllm.config import VllmConfig
    from vllm.engine.arg_utils import EngineArgs

    if hasattr(EngineArgs, _MARK):
        return
    EngineArgs.add_cli_args = staticmethod(_accept_bare_word(EngineArgs.add_cli_args))
    EngineArgs.create_engine_config = _choose_worker(EngineArgs.create_engine_config)
    EngineArgs.create_speculative_config = _carry_options(EngineArgs.create_speculative_config)
    VllmConfig._get_v2_model_runner_unsupported_features = _support_v2(VllmConfig._get_v2_model_runner_unsupported_features)
    VllmConfig.__post_init__ = _allow_async_scheduling(VllmConfig.__post_init__)
    setattr(EngineArgs, _MARK, True)
    if "vllm.v1.engine.core" in sys.modules:
        # An engine's own process: it was made to run just this module.
        _measure_before_scheduling()


def _hide_own_kernels_from_probes() -> None:
    """Keep vLLM from taking our triton_kernels/ for OpenAI's package when Python runs in the repository root.

    vLLM asks `importlib.util.find_spec("triton_kernels")`; a None in sys.modules answers "not installed".
    """
    if "triton_kernels" in sys.modules:
        return
    spec = importlib.util.find_spec("triton_kernels")
    beside_us = Path(__file__).resolve().parent.parent / "triton_kernels"
    if spec is not None and spec.origin and Path(spec.origin).resolve().parent == beside_us:
        sys.modules["triton_kernels"] = None


def _accept_bare_word(add_cli_args):
    @functools.wraps(add_cli_args)
    def wrapped(parser):
        parser = add_cli_args(parser)
        actions = {flag: action for action in parser._actions for flag in action.option_strings}
        config = actions["--speculative-config"]
        json_type = config.type

        def read(text: str):
            if text.strip() == METHOD:
                return {"method": METHOD}
            try:
                refuse_almost_specflash(text)
            except SpecFlashError as error:
                # What argparse says without a list of its own types before it.
                raise ArgumentTypeError(str(error)) from None
            return json_type(text)

        config.type = read
        method = actions.get("--spec-method")
        if method is not None and method.choices is not None:
            method.choices = [*method.choices, METHOD]
        return parser

    return wrapped


def _choose_worker(create_engine_config):
    @functools.wraps(create_engine_config)
    def wrapped(self, *args, **kwargs):
        _refuse_almost_specflash(self)
        if _asks_for_specflash(self):
            # Imported here, as below.
            from vllm_specflash.engine.arguments import settle

            settle(self)
            _measure_before_scheduling()
        return create_engine_config(self, *args, **kwargs)

    return wrapped


def _measure_before_scheduling() -> None:
    """vLLM's scheduler reads how many tokens to draft by batch size when it is made, which is once the workers are warm."""
    from vllm.v1.engine.core import EngineCore

    initialize = EngineCore._initialize_kv_caches
    if hasattr(initialize, _MARK):
        return

    @functools.wraps(initialize)
    def wrapped(self, vllm_config):
        kv_cache_config = initialize(self, vllm_config)
        config = vllm_config.speculative_config
        # Engines that share their requests may not draft different lengths; vLLM has no schedule for them.
        if _is_ours(vllm_config) and vllm_config.use_v2_model_runner and vllm_config.parallel_config.data_parallel_size == 1:
            config.num_speculative_tokens_per_batch_size = self.model_executor.collective_rpc("specflash_schedule")[0]
        return kv_cache_config

    setattr(wrapped, _MARK, True)
    EngineCore._initialize_kv_caches = wrapped


def _carry_options(create_speculative_config):
    @functools.wraps(create_speculative_config)
    def wrapped(self, target_model_config, target_parallel_config):
        if not names_specflash(self.speculative_config):
            return create_speculative_config(self, target_model_config, target_parallel_config)
        # Imported here: it imports vLLM's configs, which import the plugins' host.
        from vllm_specflash.engine.speculative_config import build_speculative_config

        return build_speculative_config(self, target_model_config, target_parallel_config)

    return wrapped


def _refuse_almost_specflash(engine_args) -> None:
    given = engine_args.speculative_config
    method, model = (given.get("method"), given.get("model")) if isinstance(given, dict) else (given, None)
    refuse_almost_specflash(method, model)
    refuse_almost_specflash(getattr(engine_args, "spec_method", None), getattr(engine_args, "spec_model", None))


def _asks_for_specflash(engine_args) -> bool:
    method, model = getattr(engine_args, "spec_method", None), getattr(engine_args, "spec_model", None)
    return names_specflash(engine_args.speculative_config) or method == METHOD or method is None and is_draft(model)


def _is_ours(vllm_config) -> bool:
    return hasattr(vllm_config.speculative_config, "specflash")


def _support_v2(unsupported_features):
    @functools.wraps(unsupported_features)
    def wrapped(self):
        features = unsupported_features(self)
        if not _is_ours(self):
            return features
        # vLLM's V2 runner builds no proposer of a custom class; ours brings a speculator of its own.
        return [feature for feature in features if "custom_class" not in feature]

    return wrapped


def _allow_async_scheduling(post_init):
    """vLLM decides about asynchronous scheduling by a list of methods; ours, on V2, never makes it wait for drafts."""

    @functools.wraps(post_init)
    def wrapped(self):
        if not _is_ours(self) or not self.use_v2_model_runner:
            post_init(self)
            return
        from vllm.config import vllm as module

        methods = module.NgramGPUTypes
        module.NgramGPUTypes = Literal[(*get_args(methods), self.speculative_config.method)]
        try:
            post_init(self)
        finally:
            module.NgramGPUTypes = methods
        self.speculative_config.size_by_vllm(self)

    return wrapped
