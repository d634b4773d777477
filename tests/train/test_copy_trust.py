"""What copies deserve is measured on answers, and what the kernels hold is what was measured."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from drafts import draft_for

from vllm_specflash.lab.bench import copy_trust
from vllm_specflash.lab.checkout import ROOT
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.dataset import AnswerSet
from vllm_specflash.train.shape import read_draft
from vllm_specflash.triton_kernels.find_copies import LONGEST
from vllm_specflash.triton_kernels.mix_copies import WEIGHTS

RECORD = ROOT / "docs" / "results" / "copy-weights.json"


def test_the_weights_are_those_of_the_record_smoothed():
    found = json.loads(RECORD.read_text(encoding="utf-8"))["weights"]
    assert [int(matched) for matched in found] == list(range(1, LONGEST + 1))
    assert [WEIGHTS[int(matched)] for matched in found] == pytest.approx([of["weight"] for of in found.values()], abs=0.1)
    assert WEIGHTS[0] == 0 and list(WEIGHTS) == sorted(WEIGHTS)


def test_the_weight_is_what_the_draft_leaves_unsaid():
    right = np.arange(100) < 70
    assert copy_trust.likeliest(np.zeros(100), right) == pytest.approx(0.7)
    # A draft that says all of it by itself needs no copy.
    assert copy_trust.likeliest(np.full(100, 0.7), right) == 0
    # w + (1 - w) / 2 = 0.7
    assert copy_trust.likeliest(np.full(100, 0.5), right) == pytest.approx(0.4)


def test_places_are_counted_in_every_answer(tmp_path, llama, llama_answers):
    draft = read_draft(draft_for(Path(llama.path), tmp_path / "draft"), llama).eval()
    answers = AnswerSet(llama_answers, llama, 512, Counter(), None)
    seen = copy_trust.observed(draft, llama, answers)
    by_hand = Counter()
    for sample in (answers[index] for index in range(len(answers))):
        ids = sample.input_ids.tolist()
        for end in range(sample.answer_start + 1, len(ids)):
            matched = [
                next((m for m in range(LONGEST) if m > j or ids[j - m] != ids[end - 1 - m]), LONGEST) for j in range(end - 1)
            ]
            longest = max(matched)
            if longest:
                best = max(j for j, m in enumerate(matched) if m == longest)
                by_hand[longest, ids[best + 1] == ids[end]] += 1
    assert sum(by_hand.values()) > 50
    assert Counter((m, said) for m, (_, right) in seen.items() for said in right.tolist()) == by_hand
    assert all(((chances >= 0) & (chances <= 1)).all() for chances, _ in seen.values())


def test_the_command_writes_what_it_prints(tmp_path, llama, llama_answers, capsys):
    AnswerFolder(tmp_path / "answers").append(llama_answers)
    draft = draft_for(Path(llama.path), tmp_path / "draft")
    copy_trust.run(llama.path, str(draft), [tmp_path / "answers"], tmp_path / "weights.json", held_out_share=1.0)
    found = json.loads((tmp_path / "weights.json").read_text())
    printed = capsys.readouterr().out
    assert found["weights"] and all(f"{of['places']:6d} places" in printed for of in found["weights"].values())
