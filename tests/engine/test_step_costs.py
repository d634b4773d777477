"""What steps take is measured at the first start, and read at later ones of the same engine."""

import json

import pytest
from engines import answers, engine, greedy, mixed_prompts, rising_seconds, runner

from vllm_specflash.engine import step_costs
from vllm_specflash.engine.v1 import costs
from vllm_specflash.tree.cost import StepCost

AUTO = {"sizing": "auto"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    return tmp_path / "cache" / step_costs.FOLDER


@pytest.fixture
def timed(monkeypatch):
    """Every timing that was taken, in seconds; of what runs at another speed each time."""
    taken = []
    monkeypatch.setattr(costs, "seconds", rising_seconds(taken))
    return taken


def _start(target, draft, options=None, **overrides) -> StepCost | None:
    with engine(target, draft, {**AUTO, **(options or {})}, **overrides) as llm:
        return runner(llm).drafter.sizing.step_cost


def _same(one: StepCost, other: StepCost) -> bool:
    return str(one) == str(other) and one.seconds.tolist() == other.seconds.tolist() and one.sizes.tolist() == other.sizes.tolist()


def test_the_next_start_reads_what_the_first_one_measured(llava, drafts, cache, timed, monkeypatch):
    draft = drafts["knowing"]
    first = _start(llava, draft)
    measured, run, step = len(timed), [], costs._step
    monkeypatch.setattr(costs, "_step", lambda runner, tokens: run.append(tokens) or step(runner, tokens))
    assert measured and _same(_start(llava, draft), first) and len(timed) == measured
    assert len(list(cache.glob("*"))) == 1
    # No request is the first of its size.
    assert run == first.sizes.tolist()


@pytest.mark.parametrize(
    "name, options, overrides",
    [("knowing", {}, {"max_num_batched_tokens": 640}), ("knowing", {"tree": False}, {}), ("random", {}, {})],
    ids=["engine", "chains", "draft"],
)
def test_another_way_of_serving_is_measured_by_itself(llava, drafts, cache, timed, name, options, overrides):
    _start(llava, drafts["knowing"])
    measured = len(timed)
    _start(llava, drafts[name], options, **overrides)
    assert len(timed) > measured and len(list(cache.glob("*.json"))) == 2


@pytest.mark.parametrize("spoil", [lambda text: text[:40], lambda text: "[]", lambda text: text.replace('"block_size": ', '"block_size": 1')])
def test_what_is_damaged_is_measured_again(llava, drafts, cache, timed, spoil):
    draft = drafts["knowing"]
    _start(llava, draft)
    (path,) = cache.glob("*.json")
    whole = path.read_text()
    path.write_text(spoil(whole))
    measured = len(timed)
    _start(llava, draft)
    assert len(timed) > measured
    assert json.loads(path.read_text())["identity"] == json.loads(whole)["identity"]


def test_engines_side_by_side_measure_alike(llava, drafts, cache, timed, monkeypatch):
    """Data parallelism's run as many steps, however long one's take and whatever another one has kept."""
    steps, step = [], costs._step
    monkeypatch.setattr(costs, "_step", lambda runner, tokens: steps.append(tokens) or step(runner, tokens))
    monkeypatch.setattr(costs, "MEASURING_SECONDS", 0.0)
    with engine(llava, drafts["knowing"], AUTO) as llm:
        alone = len(steps)
        sizes = len(set(steps))
        assert alone == 3 * sizes
        parallel = runner(llm).vllm_config.parallel_config
        monkeypatch.setattr(parallel, "data_parallel_size", 2)
        assert costs.known_step_cost(runner(llm)) is not None
        assert len(steps) - alone == (1 + costs.MOST_ROUNDS) * sizes
        monkeypatch.setattr(parallel, "data_parallel_size", 1)


def test_nothing_is_kept_where_vllm_keeps_nothing(llava, drafts, cache, timed, monkeypatch):
    monkeypatch.setenv("VLLM_DISABLE_COMPILE_CACHE", "1")
    assert _start(llava, drafts["knowing"]) is not None and not cache.exists()


def test_a_cache_that_cannot_be_written_stops_nothing(llava, drafts, cache, timed):
    cache.parent.mkdir()
    cache.write_text("a file where the folder belongs")
    assert _start(llava, drafts["knowing"]) is not None


def test_a_benchmark_measures_anew_and_keeps_that(llava, drafts, cache, timed):
    draft = drafts["knowing"]
    with engine(llava, draft, AUTO, worker_extension_cls="vllm_specflash.lab.bench.probe.StepProbe") as llm:
        first, measured = runner(llm).drafter.sizing.step_cost, len(timed)
        llm.collective_rpc("bench_settle")
        second = runner(llm).drafter.sizing.step_cost
        assert len(timed) > measured and not _same(first, second)
        assert answers(llm, mixed_prompts()[:1], greedy(8))
    assert _same(_start(llava, draft), second)
