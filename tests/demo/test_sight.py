"""The table of what sight is worth: turns cut out of packed examples, rows that differ in sight alone, and the page."""

import numpy as np
import torch

from vllm_specflash.draft import SpecFlashConfig, core
from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID, Example
from vllm_specflash.lab.demo.sight import ROWS, add_times, judge
from vllm_specflash.lab.demo.sight_states import Turn, split_turns
from vllm_specflash.lab.demo.sight_table import markdown
from vllm_specflash.lab.demo.sight_training import Ground, Setting, train
from vllm_specflash.train.target import Sample

SIZE, VOCABULARY = SpecFlashConfig().hidden_size, 300


def test_a_turn_is_the_shared_pictures_and_its_own_tokens():
    """Two pictures of 64 tokens, then a turn of 3 asked and 4 answered, and one of 2 asked and 5 answered."""
    prefix = [1, *[IMAGE_TOKEN_ID] * 64, 5, *[IMAGE_TOKEN_ID] * 64, 5]
    turns = np.array([0] * len(prefix) + [1] * 7 + [2] * 7)
    wanted = np.array([False] * len(prefix) + [False] * 3 + [True] * 4 + [False] * 2 + [True] * 5)
    tokens = np.array(prefix + list(range(100, 114)))
    drawn = Example(tokens, np.arange(len(tokens)), turns, wanted, None, None, None, 0)
    (first, first_rows), (second, second_rows) = split_turns(drawn, "sheet-0", "sheets")
    assert first.spans == second.spans == [(1, 64), (66, 64)]
    assert first.input_ids.tolist() == prefix + list(range(100, 107)) and first.answer_start == len(prefix) + 3
    assert second.input_ids[second.answer_start :].tolist() == list(range(109, 114))
    assert (drawn.tokens[second_rows] == second.input_ids.numpy()).all() and first.id != second.id


def _ground() -> Ground:
    """Sixteen-token answers that copy, in order, what the one picture's positions hold: nobody can guess them unseen."""
    generator = torch.Generator().manual_seed(0)
    ground = object.__new__(Ground)
    ground.embedding = torch.randn(VOCABULARY, SIZE, generator=generator) * 0.1
    ground.d2t, ground.t2d, ground.lm_head = torch.arange(VOCABULARY), None, ground.embedding
    ground.names = torch.zeros(VOCABULARY, dtype=torch.bool)
    ground.names[100:] = True
    turns = []
    for number in range(4):
        said = torch.randint(100, VOCABULARY, (16,), generator=generator)
        ids = torch.cat((torch.full((64,), IMAGE_TOKEN_ID), torch.tensor([1, 2]), said))
        hidden = torch.randn(len(ids), SIZE, generator=generator)
        sample = Sample(str(number), "sheets", ids, 66, [(0, 64)], {}, True)
        turns.append(Turn(sample, hidden, torch.randn(64, SIZE, generator=generator), number == 3))
    ground.training, ground.held_out = turns[:3], turns[3:]
    return ground


def test_every_row_trains_and_sees_as_many_rows_as_it_says():
    ground = _ground()
    setting = Setting(None, ("sheet",), 1, 2, 3, 1, VOCABULARY, 1e-3, 0)
    attended = {}
    for name in ("hidden", "all rows", "paper, M = 4", "placed, states, M = 9", "placed, both, M = 16"):
        draft = train(ground, setting, ROWS[name], name)
        found = judge(draft, ground)["sheets"]
        assert 1 <= found["tau"] <= 4 and 0 <= found["names_drafted"] <= 1
        attended[name] = found["attended_rows"]
    hidden = attended.pop("hidden")
    assert [rows - hidden for rows in attended.values()] == [64, 4, 9, 16]


def test_the_first_batches_do_not_depend_on_the_row():
    ground = _ground()
    first = [next(ground.batches(Setting(None, ("sheet",), 1, 2, 3, 1, VOCABULARY, 1e-3, 0))) for _ in range(2)]
    assert [turn.sample.id for turn in first[0]] == [turn.sample.id for turn in first[1]]


def test_the_page_has_a_row_per_draft_and_task():
    def row(name: str, tau: float) -> dict:
        found = {"tau": tau, "accepted_at": [0.5, 0.25], "names_drafted": 0.125, "attended_rows": 99.6, "draft_ms": 1.5}
        return {"row": name, "tasks": {"sheets": found}, "setting": {"kinds": ["sheet"], "steps": 3, "batch": 2, "width": 7, "seed": 0}}

    again = row("paper, M = 16", 2.25)
    again["setting"]["seed"] = 1
    page = markdown([row("hidden", 2.0), row("paper, M = 16", 2.125), again], "2 cores")
    assert "--kind sheet --steps 3 --table sight.md      # --seed 0, then --seed 1\n" in page
    assert "3 steps of 2 answers" in page and "## Sheets" in page
    assert "| hidden | 0 | 2.00 | 50% | 12% | 100 | 1.50 ms |" in page and "on 2 cores." in page and "| paper, M = 16 | 0 | 2.12 | 50% | 12% | 100 | 1.50 ms |" in page


def test_a_rows_time_is_that_of_a_step_over_what_it_attends_to(monkeypatch):
    """Rows in the middle of a 64-position picture are hidden or not as the row's draft hides them."""
    ground = _ground()
    setting = Setting(None, ("sheet",), 1, 2, 3, 1, VOCABULARY, 1e-3, 0)
    seen = []
    attend = core.draft_attention

    def watched(q, keys, values, table, block_size, visible, spans, *rest, **named):
        seen.append((int(visible), spans.hidden.tolist(), spans.start.tolist()))
        return attend(q, keys, values, table, block_size, visible, spans, *rest, **named)

    monkeypatch.setattr(core, "draft_attention", watched)
    rows = [
        {"row": name, "tasks": {"sheets": {"attended_rows": attended}}}
        for name, attended in (("hidden", 34.4), ("all rows", 98.0), ("paper, M = 4", 38.0), ("placed, embeddings, M = 4 per 16", 50.0))
    ]
    add_times(rows, ground, setting, rounds=1)
    assert set(map(str, seen)) == {"(34, [[64]], [[0]])", "(98, [[]], [[]])", "(38, [[60]], [[0]])", "(50, [[12, 12, 12, 12]], [[0, 4, 8, 12]])"}
    assert all(row["tasks"]["sheets"]["draft_ms"] > 0 for row in rows)
