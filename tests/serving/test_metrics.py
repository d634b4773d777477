"""/metrics of a server: vLLM's own counters, and ours beside them."""

import time

from questions import mixed_questions, question
from serving import counter, samples

from vllm_specflash.engine.stats import ACCEPTANCE_LENGTH, PREFIX, DraftStats

# The deepest tree of the tiny drafts: their K tokens in one round.
DEEPEST = 5
VLLMS = "vllm:spec_decode_num_"


def _totals(server) -> dict[str, float]:
    """Our counters by name of DraftStats."""
    return {name: counter(server, metric) for name, metric, _ in DraftStats.described()}


def test_vllms_counters_agree_with_each_other(server, ask):
    for messages in mixed_questions():
        ask(messages)
    names = ("drafts", "draft_tokens", "accepted_tokens")
    drafts, drafted, accepted = (counter(server, VLLMS + name) for name in names)
    assert 0 < drafts <= drafted and 0 < accepted <= drafted
    assert counter(server, f"{VLLMS}accepted_tokens_per_pos") == accepted


def test_own_counters_tell_what_happened(server, ask):
    before = _totals(server)
    accepted, drafted = (counter(server, f"{VLLMS}{name}_tokens") for name in ("accepted", "draft"))
    began = time.monotonic()
    # Pictures that no other test asked about: cached ones would not be compressed again.
    ask(question(201, 202))
    elapsed = time.monotonic() - began
    added = {name: total - before[name] for name, total in _totals(server).items()}
    assert (added["visual_tokens"], added["latents"]) == (32, 8)
    assert added["decoded_tokens"] == 31
    assert added["decoded_tokens"] - added["decodes"] == counter(server, f"{VLLMS}accepted_tokens") - accepted
    assert added["steps"] >= added["decodes"] > 0
    assert added["proposed_tokens"] >= counter(server, f"{VLLMS}draft_tokens") - drafted > 0
    assert 0 < added["network_seconds"] < added["seconds"] < elapsed
    assert added["errors"] == 0
    assert 1 <= counter(server, ACCEPTANCE_LENGTH) <= DEEPEST + 1


def test_own_metrics_have_vllms_labels(server):
    found = samples(server)
    (vllms,) = [labels for name, labels, _ in found if name == f"{VLLMS}drafts_total"]
    own = {name: labels for name, labels, _ in found if name.startswith(PREFIX)}
    assert set(own) == {ACCEPTANCE_LENGTH, *(f"{metric}_total" for _, metric, _ in DraftStats.described())}
    assert all(labels == vllms == {"model_name": "tiny", "engine": "0"} for labels in own.values())
