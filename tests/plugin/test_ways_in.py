"""Every way in which a user can ask for SpecFLASH reaches an engine that drafts."""

import dataclasses
import json

import pytest
from drafts import draft_for
from engines import PAYING, SMALL, runner
from vllm import LLM, SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.llm_engine import LLMEngine

from vllm_specflash.config import SpecFlashError, SpecFlashOptions, names_specflash, refuse_almost_specflash

WORKER = "vllm_specflash.engine.v1.cpu_worker.SpecFlashCPUWorker"


@pytest.fixture(scope="module")
def other_draft(text_target, tmp_path_factory):
    """A draft outside the target's folder."""
    return draft_for(text_target, tmp_path_factory.mktemp("drafts") / "other", knowing=True)


# The draft is the target's own, or `other_draft` where the text says DRAFT.
IN_PYTHON = {
    "bare word": "specflash",
    "dict": {"method": "specflash"},
    "dict with options": {"method": "specflash", "model": "DRAFT", "num_speculative_tokens": 3, "min_confidence": 0.2},
    "dict without a method": {"model": "DRAFT", "num_speculative_tokens": 3},
    "dict with dashes": {"method": "specflash", "num-speculative-tokens": 3},
}
ON_THE_COMMAND_LINE = {
    "bare word": ["--speculative-config", "specflash"],
    "bare word after =": ["--speculative-config=specflash"],
    "short flag": ["-sc", "specflash"],
    "JSON": ["--speculative-config", '{"method": "specflash", "model": "DRAFT", "num_speculative_tokens": 3}'],
    "dotted": ["--speculative-config.method", "specflash"],
    "dotted with options": [
        "--speculative-config.method", "specflash",
        "--speculative-config.model", "DRAFT",
        "--speculative-config.num_speculative_tokens", "3",
    ],
    "spec flags": ["--spec-method", "specflash", "--spec-model", "DRAFT", "--spec-tokens", "3"],
    "spec model alone": ["--spec-model", "DRAFT", "--spec-tokens", "3"],
    "spec method alone": ["--spec-method", "specflash"],
    "mixture": ["--speculative-config", '{"min_confidence": 0.2}', "--spec-method", "specflash", "--spec-tokens", "3"],
}  # fmt: skip
# Engines are run for these; the others must come to the same configuration.
RUN_IN_PYTHON = ("bare word", "dict with options")
RUN_ON_THE_COMMAND_LINE = ("bare word", "JSON", "dotted", "spec flags")


def _named(text, draft):
    return json.loads(json.dumps(text).replace("DRAFT", str(draft)))


def _expected(given, target, draft) -> SpecFlashOptions:
    text = json.dumps(given)
    return SpecFlashOptions(
        model=str(draft if "DRAFT" in text else target / "specflash"),
        num_speculative_tokens=3 if "3" in text else None,
        min_confidence=0.2 if "0.2" in text else SpecFlashOptions.min_confidence,
    )


def _parsed(target, *arguments) -> AsyncEngineArgs:
    """What `vllm serve TARGET ARGUMENTS` makes of its command line."""
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    return AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", str(target), *arguments]))


def _generate(engine: LLMEngine) -> None:
    runner(engine).drafter.sizing.step_cost = PAYING
    engine.add_request("0", "hello there", SamplingParams(temperature=0, max_tokens=12))
    while engine.has_unfinished_requests():
        engine.step()


def _drafted(engine: LLMEngine) -> bool:
    (stats,) = engine.collective_rpc("specflash_stats")
    return stats["proposed_tokens"] > 0 and stats["errors"] == 0


def _check(vllm_config, expected: SpecFlashOptions) -> None:
    spec = vllm_config.speculative_config
    assert spec.specflash == expected
    assert spec.num_speculative_tokens == expected.num_speculative_tokens or expected.num_speculative_tokens is None
    assert vllm_config.parallel_config.worker_cls == WORKER


@pytest.mark.parametrize("given", IN_PYTHON.values(), ids=IN_PYTHON)
def test_python_form_is_understood(given, text_target, other_draft):
    arguments = EngineArgs(str(text_target), speculative_config=_named(given, other_draft), **SMALL)
    _check(arguments.create_engine_config(), _expected(given, text_target, other_draft))


@pytest.mark.parametrize("way", RUN_IN_PYTHON)
def test_python_form_drafts(way, text_target, other_draft):
    llm = LLM(str(text_target), speculative_config=_named(IN_PYTHON[way], other_draft), **SMALL)
    try:
        _generate(llm.llm_engine)
        assert _drafted(llm.llm_engine)
    finally:
        llm.llm_engine.engine_core.shutdown()


@pytest.mark.parametrize("given", ON_THE_COMMAND_LINE.values(), ids=ON_THE_COMMAND_LINE)
def test_command_line_form_is_understood(given, text_target, other_draft):
    arguments = dataclasses.replace(_parsed(text_target, *_named(given, other_draft)), **SMALL)
    _check(arguments.create_engine_config(), _expected(given, text_target, other_draft))


@pytest.mark.parametrize("way", RUN_ON_THE_COMMAND_LINE)
def test_command_line_form_drafts(way, text_target, other_draft):
    arguments = _parsed(text_target, *_named(ON_THE_COMMAND_LINE[way], other_draft))
    engine = LLMEngine.from_engine_args(dataclasses.replace(arguments, **SMALL))
    try:
        _generate(engine)
        assert _drafted(engine)
    finally:
        engine.engine_core.shutdown()


def test_engine_arguments_can_be_used_twice(text_target):
    arguments = EngineArgs(str(text_target), speculative_config="specflash", **SMALL)
    first, second = arguments.create_engine_config(), arguments.create_engine_config()
    assert first.speculative_config.specflash == second.speculative_config.specflash
    assert first.parallel_config.worker_cls == second.parallel_config.worker_cls == WORKER


def test_a_key_given_twice_is_refused(text_target):
    arguments = _parsed(text_target, "--speculative-config", "specflash", "--spec-method", "specflash")
    with pytest.raises(SpecFlashError, match="Give either --spec-method or speculative_config's 'method', not both."):
        arguments.create_engine_config()


def test_other_methods_still_parse(text_target):
    assert _parsed(text_target, "--spec-method", "ngram").spec_method == "ngram"
    assert _parsed(text_target, "--speculative-config", '{"method": "ngram"}').speculative_config == {"method": "ngram"}
    assert _parsed(text_target).speculative_config is None
    with pytest.raises(SystemExit):
        _parsed(text_target, "--speculative-config", "specflesh")


@pytest.mark.parametrize("word", ["specflahs", "specflsh", "SpecFlash", "spec-flash", "spec_flash"])
def test_a_misspelt_method_is_recognised(text_target, other_draft, word, capsys):
    says = f"There is no speculative method '{word}': did you mean 'specflash'?"
    for given in (word, {"method": word}, {"method": word, "model": str(other_draft)}):
        with pytest.raises(SpecFlashError) as error:
            EngineArgs(str(text_target), speculative_config=given, **SMALL).create_engine_config()
        assert str(error.value) == says
    with pytest.raises(SystemExit):
        _parsed(text_target, "--speculative-config", word)
    assert f"argument --speculative-config/-sc: {says}" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["draft_model", "eagle"])
def test_another_method_with_a_draft_of_ours(text_target, other_draft, method):
    given = {"method": method, "model": str(other_draft), "num_speculative_tokens": 3}
    with pytest.raises(SpecFlashError) as error:
        EngineArgs(str(text_target), speculative_config=given, **SMALL).create_engine_config()
    assert str(error.value) == f'{other_draft} is a SpecFLASH draft: give the method "specflash" with it, not {method!r}.'


def test_no_method_of_vllm_is_taken_for_ours():
    from typing import get_args

    from vllm.config.speculative import SpeculativeMethod

    def words(kind):
        return [word for part in get_args(kind) for word in (words(part) if get_args(part) else [part])]

    methods = words(SpeculativeMethod)
    assert len(methods) > 8 and "dflash" in methods
    for method in methods:
        for model in ("nobody/none", "~nobody-here/none"):
            refuse_almost_specflash(method, model=model)
        assert not names_specflash({"method": method})


def test_blocks_are_small_where_trees_run(text_target):
    def block_size(config, **given) -> int:
        arguments = EngineArgs(str(text_target), speculative_config=config, **given, **SMALL)
        return arguments.create_engine_config().cache_config.block_size

    assert block_size("specflash") == 32
    assert block_size("specflash", block_size=64) == 64
    assert block_size({"method": "specflash", "tree": False}) == block_size(None)
