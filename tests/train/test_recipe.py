"""From answers to a draft, end to end on a tiny target."""

import functools
import json
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import TrainingArguments

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.dataset import AnswerSet
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.loss import LossOptions
from vllm_specflash.train.recipe import RecipeOptions, train_draft
from vllm_specflash.train.shape import DraftOptions
from vllm_specflash.train.target import Target

SHAPE = DraftOptions(semi_ar_width=3, num_latents=4, head_expansion=2, draft_vocab_size=40, transition_rank=4)
RECIPE = RecipeOptions(
    epochs=4, batch_size=2, learning_rate=3e-3, warmup_steps=2, evaluate_every=4, held_out_share=0.2, bf16=False
)


@pytest.fixture
def data(tmp_path, llama_answers):
    folder = AnswerFolder(tmp_path / "answers")
    folder.append(llama_answers)
    return folder.folder


def _weights(path) -> dict[str, torch.Tensor]:
    return SpecFlashDraft.from_pretrained(path).state_dict()


def test_training_resumed_after_an_interruption_ends_with_the_same_weights(tmp_path, llama, data):
    train_draft(llama.path, [data], tmp_path / "whole", SHAPE, LossOptions(), RECIPE)
    out = tmp_path / "stopped"
    # The schedule is that of the whole run; the file STOP ends it at the first step, with a checkpoint.
    (out / "checkpoints").mkdir(parents=True)
    (out / "checkpoints" / "STOP").touch()
    train_draft(llama.path, [data], out, SHAPE, LossOptions(), RECIPE)
    (out / "checkpoints" / "STOP").unlink()
    train_draft(llama.path, [data], out, SHAPE, LossOptions(), RECIPE)
    whole, resumed = _weights(tmp_path / "whole"), _weights(out)
    assert all(torch.allclose(whole[name].float(), resumed[name].float(), atol=2e-3) for name in whole)
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["answers"] > 0 and facts["steps"] == 8 and len(facts["data_sha256"][0]) == 64


def test_a_feed_forward_block_is_trained_from_the_beginning_or_later(tmp_path, llama, data):
    recipe, block = replace(RECIPE, epochs=1), "feed_forward.down_proj.weight"
    train_draft(llama.path, [data], tmp_path / "new", replace(SHAPE, feed_forward=8), LossOptions(), recipe)
    assert _weights(tmp_path / "new")[block].shape[1] == 8 and _weights(tmp_path / "new")[block].any()
    train_draft(llama.path, [data], tmp_path / "without", SHAPE, LossOptions(), recipe)
    assert block not in _weights(tmp_path / "without")
    later = replace(recipe, start_from=tmp_path / "without", start_feed_forward=12)
    train_draft(llama.path, [data], tmp_path / "later", SHAPE, LossOptions(), later)
    assert _weights(tmp_path / "later")[block].shape[1] == 12 and _weights(tmp_path / "later")[block].any()
    with pytest.raises(SpecFlashError, match="names has a feed_forward of 8 already: leave out the option that adds one"):
        train_draft(llama.path, [data], tmp_path / "twice", SHAPE, LossOptions(), replace(later, start_from=tmp_path / "new"))


def test_layers_that_a_draft_sees_later_are_learnt_from(tmp_path, llama, data):
    recipe = replace(RECIPE, epochs=1)
    train_draft(llama.path, [data], tmp_path / "without", SHAPE, LossOptions(), recipe)
    later = replace(recipe, start_from=tmp_path / "without", start_target_layers="1", features=tmp_path / "features")
    train_draft(llama.path, [data], tmp_path / "later", SHAPE, LossOptions(), later)
    fc = _weights(tmp_path / "later")["fc.weight"]
    assert fc.shape[1] == 3 * 128 and fc[:, 256:].any()
    with pytest.raises(SpecFlashError, match="--start-target-layers goes with --start-from: a new draft's is --target-layers."):
        train_draft(llama.path, [data], tmp_path / "none", SHAPE, LossOptions(), replace(later, start_from=None))
    with pytest.raises(SpecFlashError, match="--start-target-layers takes numbers from 0 to 1, by commas, not '9'."):
        train_draft(llama.path, [data], tmp_path / "none", SHAPE, LossOptions(), replace(later, start_target_layers="9"))


def test_features_from_disk_train_like_features_computed_on_the_way(tmp_path, llama, data):
    recipe = replace(RECIPE, epochs=1)
    train_draft(llama.path, [data], tmp_path / "online", SHAPE, LossOptions(noise=0.0, negatives=0), recipe)
    cached = replace(recipe, features=tmp_path / "features")
    train_draft(llama.path, [data], tmp_path / "cached", SHAPE, LossOptions(noise=0.0, negatives=0), cached)
    online, cached = _weights(tmp_path / "online"), _weights(tmp_path / "cached")
    assert all(torch.allclose(online[name].float(), cached[name].float(), atol=5e-3) for name in online)


def test_training_lowers_the_loss_and_learns_the_language(tmp_path, llama, data):
    results, _ = train_draft(
        llama.path, [data], tmp_path / "draft", SHAPE, LossOptions(), replace(RECIPE, epochs=30, evaluate_every=90)
    )
    # An untrained draft of 40 tokens is accepted next to never: tau 1.0.
    assert results["chat"].tau > 1.3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_runs_on_a_gpu(tmp_path, llama, data):
    results, _ = train_draft(llama.path, [data], tmp_path / "draft", SHAPE, LossOptions(), replace(RECIPE, bf16=True))
    assert results["chat"].steps > 0


def test_one_process_trains_on_one_gpu(tmp_path, llama, data, monkeypatch):
    """transformers would share batches out among all that the process sees, and the target is on one."""
    found = TrainingArguments._setup_devices.func

    def with_two(args):
        device = found(args)
        args._n_gpu = 2
        return device

    several = functools.cached_property(with_two)
    several.__set_name__(TrainingArguments, "_setup_devices")
    train_draft(llama.path, [data], tmp_path / "alone", SHAPE, LossOptions(), replace(RECIPE, epochs=1))
    monkeypatch.setattr(TrainingArguments, "_setup_devices", several)
    train_draft(llama.path, [data], tmp_path / "beside", SHAPE, LossOptions(), replace(RECIPE, epochs=1))
    alone, beside = (json.loads((tmp_path / name / "provenance.json").read_text())["steps"] for name in ("alone", "beside"))
    assert alone == beside > 1


def test_tensorboard_gets_the_losses_and_the_held_out_tau(tmp_path, llama, data):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    recipe = replace(RECIPE, epochs=2, log_every=2, tensorboard=True)
    train_draft(llama.path, [data], tmp_path / "draft", SHAPE, LossOptions(), recipe)
    (folder,) = {path.parent for path in (tmp_path / "draft" / "checkpoints" / "runs").rglob("events.*")}
    events = EventAccumulator(str(folder)).Reload()
    assert {"train/loss", "train/cross_entropy_1", "eval/tau", "eval/tau_chat"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [2, 4]


def test_feature_cache_survives_an_interruption_between_its_two_files(tmp_path, llama, llama_answers):
    cache = FeatureCache(tmp_path, 128, "llama")
    samples = [llama.sample(answer, 512) for answer in llama_answers[:3]]
    hidden = llama.hidden_states(samples)
    cache.append(samples[:1], hidden[:1])
    with open(tmp_path / "hidden.bin", "ab") as data:
        data.write(b"half a sample")
    cache = FeatureCache(tmp_path, 128, "llama")
    cache.append(samples[1:], hidden[1:])
    cache = FeatureCache(tmp_path, 128, "llama")
    for sample, states in zip(samples, hidden, strict=True):
        assert torch.equal(cache.hidden(sample.id), states[: len(sample)].to(torch.bfloat16))
        assert torch.equal(cache.samples[sample.id].input_ids, sample.input_ids)
    for other, layers, name in (("qwen", [], "qwen"), ("llama", [0], "llama-layer0"), ("lla", [], "lla")):
        with pytest.raises(ValueError, match=f"holds features of llama, not of {name}: "):
            FeatureCache(tmp_path, 128, other, layers)


def test_features_of_more_layers_serve_those_who_want_fewer(tmp_path, llama, llama_answers):
    samples = [llama.sample(answer, 512) for answer in llama_answers[:4]]
    target = Target(llama.path, torch.float32, [1, 0])
    told = target.hidden_states(samples).to(torch.bfloat16)
    FeatureCache(tmp_path, 128, "llama", [1, 0]).append(samples[:2], told[:2])
    parts = dict(zip(("last", 1, 0), told.split(128, dim=-1)))
    for layers in ([], [0], [1], [0, 1], [1, 0]):
        cache = FeatureCache(tmp_path, 128, "llama", layers)
        wanted = torch.cat([parts["last"], *(parts[layer] for layer in layers)], dim=-1)
        for sample, states in zip(samples[:2], wanted, strict=False):
            assert torch.equal(cache.hidden(sample.id), states[: len(sample)])
    with pytest.raises(ValueError, match="holds features of llama-layer1-layer0, not of llama-layer0: "):
        FeatureCache(tmp_path, 128, "llama", [0], exactly=True)
    # Who wants fewer fills it with all of them.
    target.layers, target.path = [0], "llama"
    cache = FeatureCache(tmp_path, 128, target.name, target.layers)
    AnswerSet(llama_answers[:4], target, 512, Counter(), cache).fill_cache(2)
    assert target.layers == [0] and len(cache.samples) == 4
    whole = FeatureCache(tmp_path, 128, "llama", [1, 0])
    for sample, states in zip(samples, told, strict=True):
        torch.testing.assert_close(whole.hidden(sample.id), states[: len(sample)], atol=0.05, rtol=0.05)


def test_an_answer_that_is_too_long_is_skipped_and_counted(llama, llama_answers):
    skipped: Counter = Counter()
    answers = AnswerSet(llama_answers[:1], llama, 10, skipped, None)
    assert answers[0] is None
    assert skipped == {"prompt and answer are longer than 10 tokens": 1}
