"""What is asked of both model runners alike about feeding the draft, in tests of the same names in tests/engine and tests/v2."""

from dense import TOLERANCE, DenseDraft
from engines import with_images
from feeding import Heard, furthest

from vllm_specflash.train.batch import collate

# Of the engines whose prefix cache is looked into.
BLOCK = 32


def pieces(heard: Heard, dense: DenseDraft) -> list[list[tuple[int, int]]]:
    """Of every request, (start, length) of the visual positions that are pooled together."""
    layouts = [collate([dense.sample(request)], dense.pooling, dense.width) for request in heard.finished]
    return [[(start, length) for start, length, _ in layout.spans] for layout in layouts]


def check_pictures(heard: Heard, dense: DenseDraft, lengths: list[list[int]]) -> None:
    """Pictures are pooled in pieces of these lengths, by request; answers are the target's own, and the draft is fed right."""
    assert [[length for _, length in request] for request in pieces(heard, dense)] == lengths
    assert heard.answers == [dense.says(request) for request in heard.finished]
    assert furthest(heard, dense) < TOLERANCE


def check_hit_inside_an_image(cached, dense: DenseDraft) -> None:
    """Of an image that ends behind a cached block, the latents in that block stay as they were pooled, over all of it."""
    prompts = [with_images(f"user: look there! <image> {question}? assistant: ", 1) for question in ("what", "where")]
    heard, hits = cached(prompts)
    assert hits == BLOCK
    # Four latents, two on either side of the block's end.
    assert dense.sample(heard.finished[1]).spans == [(BLOCK - 14, 16)]
    heard.finished[1].pooled_from = {0: BLOCK}
    assert furthest(heard, dense) < TOLERANCE


def check_another_token_behind_a_cached_block(cached, dense: DenseDraft) -> None:
    """The draft's row of a block's last position was kept with the token that its first reader had next: that, no more."""
    shared = "user: " + "0123456789" * 3
    prompts = [shared[:BLOCK] + question for question in ("what is this? ", "now go on. ")]
    heard, hits = cached(prompts)
    assert hits == BLOCK
    first, second = heard.finished
    assert first.token_ids[BLOCK] != second.token_ids[BLOCK]
    assert heard.answers[1] == dense.says(second)
    assert furthest(heard, dense) > TOLERANCE
    second.read_as = {BLOCK: first.token_ids[BLOCK]}
    assert furthest(heard, dense) < TOLERANCE
