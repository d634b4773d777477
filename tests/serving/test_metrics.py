"""/metrics of a server: vLLM's own counters are right for trees, and ours stand beside them."""

import time
from itertools import pairwise

from questions import mixed_questions, question
from serving import counter, samples

from vllm_specflash.engine.stats import ACCEPTANCE_LENGTH, PREFIX, DraftStats

# The deepest tree of the tiny drafts: their K tokens in one round.
DEEPEST = 5
VLLMS = "vllm:spec_decode_num_"


def _totals(server) -> dict[str, float]:
    """Our counters by name of DraftStats."""
    return {name: counter(server, metric) for name, metric, _ in DraftStats.described()}


def test_vllms_counters_are_right_for_trees(server, ask):
    for messages in mixed_questions():
        ask(messages)
    drafts, drafted, accepted = (counter(server, VLLMS + name) for name in ("drafts", "draft_tokens", "accepted_tokens"))
    assert 0 < accepted <= drafted
    # Trees have more nodes than positions.
    assert drafted > DEEPEST * drafts
    by_position = {
        int(labels["position"]): value
        for name, labels, value in samples(server)
        if name == f"{VLLMS}accepted_tokens_per_pos_total"
    }
    counts = [by_position[position] for position in sorted(by_position)]
    assert sum(counts) == accepted and counts[0] <= drafts
    # Positions are depths, whichever node was accepted there.
    assert all(shallow >= deep for shallow, deep in pairwise(counts))
    assert counts[DEEPEST - 1] > 0 and not any(counts[DEEPEST:])


def test_own_counters_tell_what_happened(server, ask):
    before, accepted, began = _totals(server), counter(server, f"{VLLMS}accepted_tokens"), time.monotonic()
    # Pictures that no other test asked about: cached ones would not be compressed again.
    ask(question(201, 202))
    elapsed = time.monotonic() - began
    added = {name: total - before[name] for name, total in _totals(server).items()}
    assert (added["visual_tokens"], added["latents"]) == (32, 8)
    assert added["decoded_tokens"] == 31
    assert added["decoded_tokens"] - added["decodes"] == counter(server, f"{VLLMS}accepted_tokens") - accepted
    assert added["steps"] >= added["decodes"] > 0 and added["proposed_tokens"] > 0
    assert 0 < added["network_seconds"] < added["seconds"] < elapsed
    assert added["errors"] == 0
    assert 1 <= counter(server, ACCEPTANCE_LENGTH) <= DEEPEST + 1


def test_own_metrics_have_vllms_labels(server):
    found = samples(server)
    (vllms,) = [labels for name, labels, _ in found if name == f"{VLLMS}drafts_total"]
    own = {name: labels for name, labels, _ in found if name.startswith(PREFIX)}
    assert set(own) == {ACCEPTANCE_LENGTH, *(f"{metric}_total" for _, metric, _ in DraftStats.described())}
    assert all(labels == vllms == {"model_name": "tiny", "engine": "0"} for labels in own.values())
