"""What follows from a recorded answer."""

import math
from dataclasses import replace

import pytest

from vllm_specflash.lab.inspection.gaze import gaze, looked_at, most_of
from vllm_specflash.lab.inspection.page import BOX, COLUMN, ROW, branches, drawn_tree, summary, visible
from vllm_specflash.lab.inspection.record import Node, Record, Span, Step


def step(draft: list[tuple[int, int]], emitted: list[int], scheduled: int | None = None) -> Step:
    """`draft` as (token, parent) pairs."""
    return Step(scheduled or 1 + len(draft), [Node(*node) for node in draft], emitted, 0.02, 0.005)


CHAIN = [(10, -1), (11, 0), (12, 1), (13, 2)]
# 10 and 20 follow the root; 11 and 12 follow 10; 21 follows 20; 13 follows 11.
TREE = [(10, -1), (20, -1), (11, 0), (12, 0), (21, 1), (13, 2)]


@pytest.mark.parametrize(
    "draft, emitted, fates",
    [
        (CHAIN, [10, 11, 12, 13, 99], "accepted accepted accepted accepted"),
        (CHAIN, [10, 11, 99], "accepted accepted rejected unreached"),
        (CHAIN, [99], "rejected unreached unreached unreached"),
        # The target's own token may be what a later node says; that node was still not accepted.
        (CHAIN, [10, 12], "accepted rejected unreached unreached"),
        (TREE, [10, 11, 13, 99], "accepted rejected accepted rejected unreached accepted"),
        (TREE, [20, 99], "rejected accepted unreached unreached rejected unreached"),
        ([], [99], ""),
    ],
)
def test_fates_of_nodes(draft, emitted, fates):
    assert step(draft, emitted).fates == fates.split()


def test_a_record_that_contradicts_itself_is_not_drawn():
    with pytest.raises(ValueError, match="not drafted after node 0"):
        step(CHAIN, [10, 12, 99]).fates


def test_a_chain_is_one_line_and_a_tree_a_line_per_branch():
    assert list(branches(step(CHAIN, [99]))) == [(0, [0, 1, 2, 3])]
    assert list(branches(step(TREE, [99]))) == [(0, [0, 2, 5]), (1, [3]), (0, [1, 4])]


def test_tokens_say_how_they_came():
    record = Record([step([], [], 512), step([], [1], 88), step(CHAIN, [10, 11, 2]), step([], [3])], [])
    assert record.tokens() == [
        (1, 1, "own"), (10, 2, "accepted"), (11, 2, "accepted"), (2, 2, "own"), (3, 3, "own"),
    ]  # fmt: skip
    assert record.tokens_per_step == 2.0
    assert [s.scheduled for s in record.decode_steps] == [5, 1]


def test_shape_of_a_span():
    def span(count: int, grid=None) -> Span:
        return Span(0, count, grid, [[1 / count] * count])

    assert span(64).shape(1.0) == (1, 8, 8)
    assert span(12).shape(3.0) == (1, 2, 6)
    assert span(12).shape(1 / 3) == (1, 6, 2)
    # Qwen2-VL merges two by two patches into a token.
    assert span(24, [1, 8, 12]).shape(1.0) == (1, 4, 6)
    assert span(48, [2, 8, 12]).shape(1.0) == (2, 4, 6)


def test_width_counts_the_tokens_that_a_latent_looks_at():
    span = Span(0, 4, None, [[0.25] * 4, [1.0, 0, 0, 0], [0.5, 0.5, 0, 0]])
    assert [span.width(latent) for latent in range(3)] == pytest.approx([4, 1, 2])
    assert not math.isnan(span.width(1))


def _window(latent: int, side: int, tokens: int) -> list[float]:
    """Weights of a latent that looks at its cell of a square picture of tokens x tokens, and a little at all."""
    down, right = divmod(latent, side)
    places = [divmod(at, tokens) for at in range(tokens * tokens)]
    seen = [(row * side // tokens, column * side // tokens) == (down, right) for row, column in places]
    return [0.9 * one / sum(seen) + 0.1 / tokens**2 for one in seen]


def test_latents_lie_as_the_picture_does_where_most_look_at_their_own_cell():
    windows = [_window(latent, 3, 6) for latent in range(9)]
    assert Span(0, 36, None, windows).side((1, 6, 6)) == 3
    assert Span(0, 36, None, [windows[1], windows[0], *windows[2:]]).side((1, 6, 6)) == 3
    assert Span(0, 36, None, windows[::-1]).side((1, 6, 6)) is None
    # Columns for rows: only those on the diagonal are where they should be.
    assert Span(0, 36, None, [windows[3 * (m % 3) + m // 3] for m in range(9)]).side((1, 6, 6)) is None
    assert Span(0, 36, None, windows[:8]).side((1, 6, 6)) is None
    # Of a clip, which frame would one draw over?
    assert Span(0, 8, None, [[1.0] + [0.0] * 7]).side((2, 2, 2)) is None


def test_what_a_draft_looked_at_most():
    looking = replace(step(CHAIN, [99]), looks=[[0.1, 0.05], [0.2, 0.25]])
    assert looking.most_looked == (1, 1, 0.25) and looking.text_look == pytest.approx(0.4)
    assert looked_at(looking) == "latent 2 of picture 2 (25%)"
    drawn = gaze(looking, 0.5)
    assert [[cell["look"] for cell in cells] for cells in drawn["pictures"]] == [[0.2, 0.1], [0.4, 0.5]]
    (top,) = [cell for cells in drawn["pictures"] for cell in cells if cell["top"]]
    assert top["title"] == "latent 2 of picture 2: 25.0%"
    assert most_of([step(CHAIN, [99]), looking, replace(looking, looks=[[0.3, 0.0], [0.0, 0.0]])]) == 0.3


@pytest.mark.parametrize("looks", [None, []])
def test_a_step_without_draft_or_latents_has_no_gaze(looks):
    blind = replace(step(CHAIN, [99]), looks=looks)
    assert blind.most_looked is None and looked_at(blind) is None and gaze(blind, most_of([blind])) is None


def test_blanks_are_visible():
    assert visible(" the\n") == "␣the⏎" and visible("") == "∅"


def test_a_branch_hangs_below_its_parent():
    names = {token: f"token{token}" for token, _ in TREE}
    drawn = drawn_tree(step(TREE, [99]), names)
    nodes = drawn["nodes"]
    lines = list(branches(step(TREE, [99])))
    # A row per branch, a column per depth; nobody covers anybody.
    assert drawn["height"] == len(lines) * ROW
    assert len({(node["x"], node["y"]) for node in nodes}) == len(TREE)
    for index, (_, parent) in enumerate(TREE):
        if parent >= 0:
            assert nodes[index]["x"] == nodes[parent]["x"] + COLUMN and nodes[index]["y"] >= nodes[parent]["y"]
            # The line begins at the parent's right edge, in its row, and ends at the node's left edge.
            begin = f"M{nodes[parent]['x'] + BOX} {nodes[parent]['y'] - 2 + ROW // 2}"
            assert nodes[index]["path"].startswith(begin) and nodes[index]["path"].endswith(f"H{nodes[index]['x']}")
    assert all(len(node["short"]) <= 9 for node in nodes)


def test_the_summary_counts_what_a_manager_counts():
    first, later = step([], [7]), step(CHAIN, [CHAIN[0][0], CHAIN[1][0], 99])
    text = summary(Record([first, later, later], []))
    assert "ran 2 times for 6 tokens, where without a draft it would have run 6 times" in text
    assert f"4 of the draft's {2 * len(CHAIN)} guesses were right" in text
    assert "nothing to speed up" in summary(Record([first], []))
