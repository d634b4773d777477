"""A decode step never waits for the device, moves nothing between it and the host, and finds its tensors where they were."""

from unittest import mock

import pytest
import torch
from engines import greedy, mixed_prompts, runner
from v2 import engine

from vllm_specflash.engine import latents
from vllm_specflash.engine.spans import Spans
from vllm_specflash.engine.v2 import speculator, verifier
from vllm_specflash.lab.bench.launches import as_vllm, counting, decode_step
from vllm_specflash.lab.bench.random_draft import default_draft
from vllm_specflash.lab.bench.stand_in import SMALL, DecodeStep


@pytest.mark.parametrize("requests", [1, 7])
def test_no_part_of_a_step_reads_values_or_moves_them(requests):
    """On torch's meta device, which has no values: reading one raises."""
    parts = decode_step(requests, context=100, nodes=7)
    assert set(parts) == {"prepare", "verify", "draft"}
    for counter in parts.values():
        assert counter.counts.total() > 0 and not counter.transfers


def test_states_of_other_layers_wait_for_nothing():
    config = default_draft(SMALL)
    config.target_layers = [2, 0]
    step = DecodeStep("meta", config, 4, 7, 100)
    with counting() as counter:
        step.draft()
    assert step.speculator.stats.errors == 0 and step.speculator.hidden.shape[1] == 3 * config.hidden_size
    assert not counter.transfers


def test_verifying_takes_ten_launches_whatever_the_trees():
    """What a step adds to vLLM's own outside of the draft's graph."""
    for requests, nodes in ((1, 7), (64, 16), (7, 40)):
        assert decode_step(requests, context=100, nodes=nodes)["verify"].counts.total() <= 10


def reading_pictures() -> DecodeStep:
    """A step of four requests: a picture is read whole, one begins, one ends, the last request decodes."""
    step = DecodeStep("meta", default_draft(SMALL), 4, 15, 100)
    batch, speculator = step.input_batch, step.speculator
    batch.query_start_loc_np = batch.cu_num_logits_np
    # Sixteen rows each, from position 100 on.
    for request, (start, end) in enumerate([(102, 112), (104, 130), (60, 114)]):
        batch.is_prefilling_np[request] = True
        speculator._spans[batch.req_ids[request]] = Spans.of([(start, end - start)], 4)
    return step


def test_reading_pictures_waits_for_nothing(monkeypatch):
    """Bounds of chunks and places of latents go to the device, in the one way that does not hold the host up; nothing returns."""
    step, sent = reading_pictures(), mock.Mock(wraps=latents.to_device)
    for module in (latents, speculator):
        monkeypatch.setattr(module, "to_device", sent)
    with counting() as counter:
        step.draft()
    stats = step.speculator.stats
    assert stats.errors == 0 and (stats.visual_tokens, stats.latents) == (10 + 14, 4 + 4)
    assert counter.counts["scores_kernel"] == counter.counts["pool_kernel"] == 3
    assert counter.transfers == {"h2d": sent.call_count} == {"h2d": 3 + 3}


WAITS = {
    "item": lambda tensor: tensor[0].item(),
    "cpu": lambda tensor: tensor.cpu(),
    "nonzero": lambda tensor: tensor.nonzero(),
    "a mask": lambda tensor: tensor[tensor > 0],
    "tolist": lambda tensor: tensor.tolist(),
    "an if": lambda tensor: 1 if tensor.any() else 0,
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
@pytest.mark.parametrize("place", ["draft", "verify"])
def test_waiting_would_be_seen(wait, place, monkeypatch):
    """The test above, were one such line in the engine."""
    owner, name = {"draft": (speculator, "slot_queries"), "verify": (verifier, "tree_accept")}[place]
    whole = getattr(owner, name)

    def waiting(first, *args):
        wait(first)
        return whole(first, *args)

    monkeypatch.setattr(owner, name, waiting)
    with pytest.raises((RuntimeError, NotImplementedError)):
        decode_step(2, context=100, nodes=7)


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_waiting_for_a_picture_would_be_seen(wait, monkeypatch):
    whole, step = latents.latent_compress, reading_pictures()

    def waiting(queries, rows, *args):
        wait(rows)
        return whole(queries, rows, *args)

    monkeypatch.setattr(latents, "latent_compress", waiting)
    with counting(), pytest.raises((RuntimeError, NotImplementedError)):
        step.speculator._pool(step.input_batch, step.hidden_states)


def test_what_leaves_the_device_would_be_seen():
    with mock.patch.object(verifier, "get_num_sampled_and_rejected", as_vllm):
        step = DecodeStep("meta", default_draft(SMALL), 2, 7, 100)
        with counting() as counter:
            step.num_sampled.copy_(torch.ones(2, dtype=torch.int32))
    assert counter.transfers == {"h2d": 1}


def addresses(ours) -> dict[str, int]:
    """Of everything that graphs read or write."""
    drafting = ours.speculator
    tables, kept = drafting.tables, drafting.kept
    tensors = {
        "block table": drafting.block_table, "drafts": drafting.drafts, "hidden": drafting.hidden,
        "ratio": drafting.calibration.ratio, "counters": drafting.counters.totals, "chances": tables.chances,
        "confidence": drafting.draft_token_confidence_probs, "positions": ours.input_buffers.positions,
        "kept drafts": kept.drafts, "kept confidence": kept.confidence,
    }  # fmt: skip
    for name, group in (
        ("rows", drafting.rows), ("committed", drafting.committed), ("trees", tables.trees),
        ("spans", tables.spans), ("seen", tables.flags.spans), ("queries", drafting.queries.cut(1)[:3]),
        ("verified", ours.rejection_sampler.rows), ("kept trees", kept.trees),
    ):  # fmt: skip
        tensors |= {f"{name} {k}": tensor for k, tensor in enumerate(group)}
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}


def test_tensors_keep_their_addresses(llava, drafts, misranking):
    with engine(llava, drafts["knowing"], max_num_batched_tokens=64) as llm:
        ours, core, steps = runner(llm), llm.llm_engine, 0
        before = addresses(ours)
        assert before["drafts"] == before["kept drafts"] and before["rows 0"] == before["verified 0"]
        assert before["block table"] == ours.block_tables.input_block_tables[0].data_ptr()
        for index, prompt in enumerate(mixed_prompts()[:4]):
            core.add_request(str(index), prompt, greedy(6 + index))
        while core.has_unfinished_requests():
            core.step()
            steps += 1
            assert addresses(ours) == before
        assert steps > 6
