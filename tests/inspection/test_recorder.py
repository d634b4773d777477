"""What is recorded of an answer inside a running engine, against what the engine itself did."""

from types import SimpleNamespace

import pytest
import torch
from drafts import draft_for
from engines import accepted_tokens, engine, greedy, with_images

from vllm_specflash.draft import core
from vllm_specflash.engine import latents
from vllm_specflash.lab.inspection.record import Record
from vllm_specflash.lab.inspection.recorder import RECORDER

PLACED = {"compressor": "placed", "latent_positions": 16, "num_rounds": 2, "semi_ar_width": 3}
DRAFTS = {
    "paper": {},
    "states": {**PLACED, "visual_features": "states"},
    "embeddings": {**PLACED, "visual_features": "embeddings", "latent_heads": 2},
    "both": {**PLACED, "visual_features": "both", "latent_heads": 3},
    "pieces": {**PLACED, "visual_features": "embeddings", "num_latents": 2, "pool_length": 8, "latent_positions": 8},
}
SPANS, LATENTS, TOKENS = 2, 4, 16


class Heard:
    """What an engine pools and attends to, heard in its own calls.

    Attributes:
        rows: of each chunk, what was pooled. latents: of each span or piece of one, as the draft got them.
        slots: of each span, where its latents lie.
        shares: of each draft [S M], by its own attention: what it finds where each latent's value is a unit vector.
    """

    def __init__(self, patch: pytest.MonkeyPatch):
        self.forget()
        compress, attend = latents.latent_compress, core.draft_attention
        pool, remember = latents.SpanPooler.pool, core.DraftingCore.remember_latents

        def hear_rows(queries, rows, *state):
            self.rows.append(rows.clone())
            return compress(queries, rows, *state)

        def hear_latents(pooler, *step):
            finished = pool(pooler, *step)
            self.latents += [made for _, _, made in finished]
            return finished

        def hear_slots(drafting, made, positions, slots):
            self.slots += slots.split(LATENTS)
            return remember(drafting, made, positions, slots)

        def hear_shares(query, keys, values, table, block_size, visible, spans, scale, extra=None, *further, **options):
            if extra is None:
                units, slots = torch.zeros_like(values), torch.cat(self.slots)
                units[slots, :, torch.arange(len(slots))] = 1
                found = attend(query, keys, units, table, block_size, visible, spans, scale)
                self.shares.append(found[0, :, : len(slots)].mean(0))
            return attend(query, keys, values, table, block_size, visible, spans, scale, extra, *further, **options)

        patch.setattr(latents, "latent_compress", hear_rows)
        patch.setattr(latents.SpanPooler, "pool", hear_latents)
        patch.setattr(core.DraftingCore, "remember_latents", hear_slots)
        patch.setattr(core, "draft_attention", hear_shares)

    def forget(self) -> None:
        self.rows, self.latents, self.slots, self.shares = [], [], [], []


@pytest.fixture(scope="module", params=DRAFTS)
def recorded(request, image_target, tmp_path_factory):
    """One answer, its record, what was heard of its engine, tokens accepted by vLLM's counter; prefill cuts spans in two."""
    # Weights so large that no two latents get the same attention.
    fields = {**DRAFTS[request.param], "initializer_range": 0.1}
    draft = draft_for(image_target, tmp_path_factory.mktemp("drafts") / request.param, knowing=True, **fields)
    with pytest.MonkeyPatch.context() as patch:
        heard = Heard(patch)
        with engine(
            image_target, draft, {"min_confidence": 0}, worker_extension_cls=RECORDER, max_num_batched_tokens=19, max_num_seqs=1
        ) as llm:  # fmt: skip
            llm.collective_rpc("inspect_install")
            # Of what was asked before, nothing is left.
            llm.generate(with_images("another <image> assistant: ", 1), greedy(8), use_tqdm=False)
            llm.collective_rpc("inspect_take")
            heard.forget()
            before = accepted_tokens(llm)
            prompt = with_images("first <image> then some words and <image> compare them. assistant: ", 8, 9)
            (answer,) = llm.generate(prompt, greedy(40), use_tqdm=False)
            record = Record.of(llm.collective_rpc("inspect_take")[0])
            accepted = accepted_tokens(llm) - before
            compressor = llm.llm_engine.model_executor.driver_worker.worker.model_runner.drafter.model.compressor
    return SimpleNamespace(answer=answer, record=record, heard=heard, accepted=accepted, compressor=compressor)


def test_every_token_of_the_answer_is_recorded(recorded):
    tokens = recorded.record.tokens()
    assert [token for token, _, _ in tokens] == list(recorded.answer.outputs[0].token_ids)
    assert sum(kind == "accepted" for _, _, kind in tokens) == recorded.accepted > 0


def test_prefill_came_in_chunks_and_every_step_has_its_time(recorded):
    steps = recorded.record.steps
    assert next(index for index, step in enumerate(steps) if step.emitted) > 0
    assert all(step.target_seconds > 0 and step.draft_seconds > 0 for step in steps)


def test_weights_are_those_that_the_latents_were_pooled_with(recorded):
    record, heard, compressor = recorded.record, recorded.heard, recorded.compressor
    pieces = len(heard.latents) // SPANS
    length, count = TOKENS // pieces, LATENTS // pieces
    rows = torch.cat(heard.rows).split(length)
    assert len(record.spans) == SPANS and len(heard.latents) == len(rows) == SPANS * pieces and len(heard.rows) > len(rows)
    for number, (made, of_piece) in enumerate(zip(heard.latents, rows, strict=True)):
        span, piece = record.spans[number // pieces], number % pieces
        assert span.end - span.begin == TOKENS
        # By query: these weights make the very latents that the engine's pooling in chunks made.
        weights = torch.softmax(compressor.queries @ of_piece.T, dim=-1)
        torch.testing.assert_close(compressor.latents(weights @ of_piece), made, atol=1e-4, rtol=1e-4)
        # By latent: the record, in which a latent looks at its own piece alone.
        by_latent = torch.zeros(count, TOKENS)
        by_latent[:, piece * length : (piece + 1) * length] = weights.view(count, -1, length).mean(1)
        recorded_weights = torch.tensor(span.weights)[piece * count : (piece + 1) * count]
        torch.testing.assert_close(recorded_weights, by_latent, atol=1e-5, rtol=1e-4)


def test_each_latent_has_the_share_that_the_drafts_own_attention_gave_it(recorded):
    heard = torch.stack(recorded.heard.shares)
    drafted = [step for step in recorded.record.steps if step.draft]
    # The last draft of an answer may be one that nothing came after.
    assert len(drafted) > 4 and len(heard) - len(drafted) in (0, 1)
    looks = torch.tensor([step.looks for step in drafted])
    assert looks.shape[1:] == (SPANS, LATENTS)
    torch.testing.assert_close(looks.flatten(1), heard[: len(looks)], atol=1e-6, rtol=1e-4)
    # Latents differ by far more than that, or one could stand for another.
    assert (looks.flatten(1).diff(dim=1).abs() > 1e-4).float().mean() > 0.9


def test_steps_without_a_draft_looked_at_nothing(recorded):
    assert all(step.looks is None for step in recorded.record.steps if not step.draft)
