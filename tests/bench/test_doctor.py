"""The doctor is right about good and bad targets and drafts, and about what they are to run on."""

import json
import shutil
from types import SimpleNamespace

import pytest
from drafts import draft_for
from safetensors.torch import load_file, save_file

from vllm_specflash.lab.bench.doctor import FAULT, examine
from vllm_specflash.lab.bench.doctor import engine as of_engine


@pytest.fixture
def pair(text_target, tmp_path):
    """Copies of a target and its draft, to be spoilt; the draft is named, or the target's own where `draft` is None."""
    target = tmp_path / "targets" / text_target.name
    shutil.copytree(text_target, target)
    shutil.move(target / "specflash", tmp_path / "draft")
    return SimpleNamespace(target=target, draft=tmp_path / "draft", original=text_target)


def _config(folder, **fields):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def _weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def _cut(path, keep=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


def _shard(target, lose=False):
    """The target's weights as two files with an index."""
    tensors = load_file(target / "model.safetensors")
    (target / "model.safetensors").unlink()
    names, weight_map = sorted(tensors), {}
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, target / file, {"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    (target / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    if lose:
        (target / "model-00002-of-00002.safetensors").unlink()


def _own_draft(pair, monkeypatch):
    shutil.move(pair.draft, pair.target / "specflash")
    pair.draft = None


def _another_target_name(pair, monkeypatch):
    _config(pair.draft, target_name="org/other-7b")


def _limited_vocabulary(pair, monkeypatch):
    shutil.rmtree(pair.draft)
    draft_for(pair.original, pair.draft, draft_vocab_size=40)


def _named(attribute, value):
    return lambda pair, monkeypatch: setattr(pair, attribute, value)


GOOD = {
    "the target's own draft": _own_draft,
    "a draft that is named": lambda pair, monkeypatch: None,
    "a draft of some of the target's tokens": _limited_vocabulary,
    "weights in two files": lambda pair, monkeypatch: _shard(pair.target),
    "a draft of any target": lambda pair, monkeypatch: _config(pair.draft, target_name=""),
    "a folder named with a slash at its end": lambda pair, monkeypatch: setattr(pair, "target", f"{pair.target}/"),
    "a draft of the authors' layer": lambda pair, monkeypatch: (
        shutil.rmtree(pair.draft), draft_for(pair.original, pair.draft, variant="plain"),
    ),
    "a draft that sees several layers": lambda pair, monkeypatch: (
        shutil.rmtree(pair.draft), draft_for(pair.original, pair.draft, target_layers=[1, 0]),
    ),
}  # fmt: skip
# What is spoilt, which finding says so, and in which words.
BAD = {
    "no such target folder": (_named("target", "/nowhere/target"), "target", "the folder /nowhere/target does not exist"),
    "a target in nobody's home": (_named("target", "~nobody-here/target"), "target", "the folder ~nobody-here/target does not exist"),
    "a target that only a silent hub has": (_named("target", "nobody/none"), "target", "nothing of it in the hub's cache (HF_HUB_OFFLINE is set)"),
    "a target that is no name": (_named("target", "no body/none"), "target", "it is no hub id"),
    "a target without config": (lambda p, m: (p.target / "config.json").unlink(), "target", "has no config.json"),
    "a target without weights": (lambda p, m: (p.target / "model.safetensors").unlink(), "target", "holds no weights"),
    "a target cut short": (lambda p, m: _cut(p.target / "model.safetensors"), "target", "was cut short: it has"),
    "a target of words": (lambda p, m: (p.target / "model.safetensors").write_text("<html>"), "target", "is no safetensors file"),
    "a target that lacks a file": (lambda p, m: _shard(p.target, lose=True), "target", "lacks model-00002-of-00002.safetensors, one of 2"),
    "a target without tokenizer": (lambda p, m: [f.unlink() for f in p.target.glob("token*")], "target", "has no tokenizer"),
    "a target of an unknown kind": (lambda p, m: _config(p.target, model_type="llamas", architectures=["Llamas"]), "target", "llamas"),
    "no draft": (lambda p, m: (shutil.rmtree(p.draft), setattr(p, "draft", None)), "draft", "has no config.json"),
    "no such draft folder": (_named("draft", "/nowhere/draft"), "draft", "No SpecFLASH draft at /nowhere/draft: the folder does not exist"),
    "a draft that only a silent hub has": (_named("draft", "nobody/draft"), "draft", "nothing of it in the hub's cache"),
    "the target for a draft": (lambda p, m: setattr(p, "draft", p.target), "draft", "holds a model of type 'llama', not a SpecFLASH draft"),
    "a draft whose config is no JSON": (lambda p, m: (p.draft / "config.json").write_text("{"), "draft", "cannot be used"),
    "a draft without weights": (lambda p, m: (p.draft / "model.safetensors").unlink(), "draft", "has no model.safetensors"),
    "a draft cut short": (lambda p, m: _cut(p.draft / "model.safetensors", 0.9), "draft", "was cut short: it has"),
    "a draft cut in its header": (lambda p, m: _cut(p.draft / "model.safetensors", 0.0001), "draft", "is no safetensors file"),
    "a draft that lacks a tensor": (lambda p, m: _weights(p.draft, lambda t: t.pop("fc.weight")), "trial", "lack fc.weight"),
    "a draft of other shapes": (lambda p, m: _config(p.draft, semi_ar_width=9), "trial", "could not be read"),
    "a draft of NaNs": (lambda p, m: _weights(p.draft, lambda t: t["fc.bias"].fill_(float("nan"))), "trial", "fc.bias in"),
    "a draft that overflows": (lambda p, m: _weights(p.draft, lambda t: t["fc.weight"].fill_(3e38)), "trial", "gives values that are no numbers"),
    "a draft with a list of tokens that are none": (
        lambda p, m: (_limited_vocabulary(p, m), _weights(p.draft, lambda t: t["d2t"].add_(10_000))), "trial", "d2t in",
    ),
    "a draft of another width": (
        lambda p, m: (shutil.rmtree(p.draft), draft_for(p.original, p.draft, hidden_size=64)), "together", "its hidden size is 64",
    ),
    "a draft that sees a layer that is not there": (
        lambda p, m: (shutil.rmtree(p.draft), draft_for(p.original, p.draft, target_layers=[2])),
        "together", "has layers 0 to 1",
    ),
    "a draft of another target": (_another_target_name, "together", "was trained for org/other-7b, not for"),
    "a plugin left out": (lambda p, m: m.setenv("VLLM_PLUGINS", "another"), "plugin", "VLLM_PLUGINS=another leaves it out"),
    "too little memory": (
        lambda p, m: m.setattr(of_engine, "_free_and_total_bytes", lambda: (1 << 28, 1 << 34)), "memory", "0.2 of 16.0 GiB are free",
    ),
}  # fmt: skip


def _examined(pair) -> list:
    of_engine.engine_config.cache_clear()
    return list(examine(str(pair.target), None if pair.draft is None else str(pair.draft)))


@pytest.mark.parametrize("prepare", GOOD.values(), ids=GOOD)
def test_what_is_well_is_ready(pair, monkeypatch, prepare):
    prepare(pair, monkeypatch)
    findings = _examined(pair)
    assert not [finding for finding in findings if finding.state == FAULT]
    expected = ["machine", "torch", "vLLM", "plugin", "kernels", "target", "draft", "trial", "together", "memory", "step costs", "requests"]
    assert [finding.subject for finding in findings] == expected


@pytest.mark.parametrize("shape, sees", [({"num_latents": 9}, "9 latents"), ({"compressor": "none"}, "no compression")])
def test_it_says_what_the_draft_sees_of_a_picture(pair, shape, sees):
    shutil.rmtree(pair.draft)
    draft_for(pair.original, pair.draft, **shape)
    (said,) = (finding.found for finding in _examined(pair) if finding.subject == "draft")
    assert f"x 1 rounds, {sees}, " in said


@pytest.mark.parametrize("spoil, subject, says", BAD.values(), ids=BAD)
def test_what_is_not_is_found(pair, monkeypatch, spoil, subject, says):
    spoil(pair, monkeypatch)
    faults = [finding for finding in _examined(pair) if finding.state == FAULT]
    assert subject in [fault.subject for fault in faults]
    told = next(fault for fault in faults if fault.subject == subject)
    assert says in told.found and "\n" not in told.found
    # Nothing else is blamed: what rests on a fault is left out.
    assert {fault.subject for fault in faults} <= {subject, "target", "draft"}


def test_there_are_enough_cases():
    assert len(GOOD) + len(BAD) > 30


def test_what_the_engine_refuses_is_listed(pair):
    (requests,) = [finding for finding in _examined(pair) if finding.subject == "requests"]
    assert "refuses min_p and logit_bias with any speculation (HTTP 400)" in requests.found


def test_it_shows_what_steps_were_measured_to_take(pair, monkeypatch, tmp_path):
    from vllm_specflash.engine.step_costs import StepCosts

    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    said = lambda: next(finding.found for finding in _examined(pair) if finding.subject == "step costs")  # noqa: E731
    assert said().startswith("none kept")
    costs = StepCosts(of_engine.engine_config(str(pair.target), str(pair.draft)))
    costs.write({"tokens": [1, 4, 8], "seconds": [0.0152, 0.02, 0.0311], "side_path_seconds": 0.0})
    assert "kept for 1 way of serving it, the default settings among them" in said()
    assert said().endswith("by tokens a step: 1: 15.2 ms, 8: 31.1 ms")
    costs.path.rename(costs.path.with_stem("other"))
    assert "none with the default settings" in said()
