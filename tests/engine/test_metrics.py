"""The metrics vllm:specflash_*, offline: right, those of the newest engine, and never in anybody's way."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from engines import answers, draft_stats, engine, greedy, mixed_prompts
from prometheus_client import REGISTRY

from vllm_specflash.engine import metrics
from vllm_specflash.engine.stats import PREFIX, DraftStats


def own_metrics() -> dict[str, float]:
    """Samples of the process's registry by name without prefix; each must have vLLM's own labels."""
    samples = [s for family in REGISTRY.collect() for s in family.samples if s.name.startswith(PREFIX)]
    assert all(set(sample.labels) == {"model_name", "engine"} for sample in samples)
    return {sample.name.removeprefix(PREFIX): sample.value for sample in samples}


@pytest.fixture(scope="module")
def drafted(llava, drafts):
    """One engine's answers, and what was counted meanwhile: by us, by our metrics and by vLLM's."""
    with engine(llava, drafts["knowing"]) as llm:
        found = SimpleNamespace(answers=answers(llm, mixed_prompts(), greedy()))
        found.stats, found.own = draft_stats(llm), own_metrics()
        found.vllms = {metric.name: getattr(metric, "value", None) for metric in llm.get_metrics()}
        answers(llm, mixed_prompts()[:1], greedy())
        found.later_stats, found.later_own = draft_stats(llm), own_metrics()
    return found


def test_metrics_are_the_counters(drafted, plain_answers):
    assert drafted.answers == plain_answers
    names = {name: metric.removeprefix(PREFIX) + "_total" for name, metric, _ in DraftStats.described()}
    assert {name: drafted.own[metric] for name, metric in names.items()} == drafted.stats
    # Reading the counters starts them anew; the metrics go on.
    steps = drafted.stats["steps"], drafted.later_stats["steps"]
    assert drafted.later_own["steps_total"] == sum(steps) and min(steps) > 0


def test_metrics_agree_with_vllms(drafted):
    stats, vllms = drafted.stats, drafted.vllms
    assert stats["decoded_tokens"] - stats["decodes"] == vllms["vllm:spec_decode_num_accepted_tokens"] > 0
    assert stats["proposed_tokens"] >= vllms["vllm:spec_decode_num_draft_tokens"] > 0
    # `LLM.get_metrics()` has ours as well.
    assert vllms[f"{PREFIX}proposed_tokens"] == stats["proposed_tokens"]


def test_metrics_say_what_happened(drafted):
    # 6 + 2 + 1 + 1 + 1 + 1 pictures of 16 visual tokens, each of which became 4 latents.
    assert (drafted.stats["visual_tokens"], drafted.stats["latents"]) == (12 * 16, 12 * 4)
    assert 0 < drafted.stats["network_seconds"] < drafted.stats["seconds"]
    assert 1 < drafted.own["acceptance_length"] < 17


def test_vllms_own_metrics_are_as_without_a_draft(llava, drafted):
    with engine(llava) as llm:
        plain = {metric.name for metric in llm.get_metrics() if not metric.name.startswith(PREFIX)}
    drafting = {name for name in drafted.vllms if not name.startswith(PREFIX)}
    assert plain < drafting
    assert all(name.startswith("vllm:spec_decode_") for name in drafting - plain)


def test_faults_while_serving_disturb_nothing(llava, drafts, plain_answers, monkeypatch):
    monkeypatch.setattr(metrics.MetricsFiles, "write", _full_disk)
    with engine(llava, drafts["knowing"]) as llm:
        assert answers(llm, mixed_prompts(), greedy()) == plain_answers
        stats = draft_stats(llm)
        assert stats["errors"] == 0 and stats["proposed_tokens"] > 0
        assert own_metrics() and not any(own_metrics().values())


def _full_disk(*_, **__):
    raise OSError("No space left on device")


def _worker(folder: str | None) -> metrics.WorkerMetrics:
    """Of an engine whose vLLM config says no more than it must."""
    return metrics.WorkerMetrics(
        SimpleNamespace(
            speculative_config=SimpleNamespace(metrics_folder=folder),
            model_config=SimpleNamespace(served_model_name="tiny"),
            parallel_config=SimpleNamespace(data_parallel_index=1),
        )
    )


def test_only_the_newest_engine_has_metrics():
    older = metrics.metrics_folder()
    _worker(older).publish(DraftStats(steps=7))
    assert own_metrics()["steps_total"] == 7
    newer = metrics.metrics_folder()
    assert own_metrics() == {} and not Path(older).exists()
    _worker(newer).publish(DraftStats(steps=2))
    assert own_metrics()["steps_total"] == 2


def test_a_worker_that_starts_again_goes_on_in_its_file():
    folder = metrics.metrics_folder()
    _worker(folder).publish(DraftStats(steps=7))
    _worker(folder).publish(DraftStats(steps=3))
    assert own_metrics()["steps_total"] == 3


def test_acceptance_length_forgets():
    worker, stats = _worker(metrics.metrics_folder()), DraftStats()
    for tokens, steps in ((1, 1000), (5, 1000)):
        for _ in range(steps):
            stats.decodes, stats.decoded_tokens = stats.decodes + 2, stats.decoded_tokens + 2 * tokens
            worker.publish(stats)
        assert own_metrics()["acceptance_length"] == pytest.approx(tokens, abs=0.01)


def test_a_folder_of_vllms_is_used(monkeypatch, tmp_path):
    """With several API servers vLLM names one."""
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    assert metrics.metrics_folder() == str(tmp_path)


@pytest.mark.parametrize("fault", [(metrics.os, "posix_fallocate"), (metrics.MmapedDict, "read_value")])
def test_a_worker_that_can_leave_nothing_goes_on(monkeypatch, fault):
    folder = metrics.metrics_folder()
    monkeypatch.setattr(*fault, _full_disk)
    _worker(folder).publish(DraftStats(steps=7))
    _worker("/a/folder/of/another/machine").publish(DraftStats(steps=7))
    _worker(None).publish(DraftStats(steps=7))
    assert own_metrics() == {}


def test_a_process_that_can_read_nothing_goes_on(monkeypatch):
    _worker(metrics.metrics_folder()).publish(DraftStats(steps=7))
    with monkeypatch.context() as faulty:
        faulty.setattr(metrics.MultiProcessCollector, "collect", _full_disk)
        assert own_metrics() == {}
    assert own_metrics()["steps_total"] == 7
    monkeypatch.setattr(metrics.tempfile, "TemporaryDirectory", _full_disk)
    assert metrics.metrics_folder() is None
