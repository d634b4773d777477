"""A schedule of draft lengths by batch size is made of what is measured once, and kept for later starts."""

import v2
from drafts import draft_for
from engines import answers, greedy, rising_seconds

from vllm_specflash.engine import step_costs
from vllm_specflash.engine.v2 import schedule


def test_the_next_start_makes_the_schedule_of_what_the_first_one_measured(llava, tmp_path, monkeypatch):
    monkeypatch.setenv("VLLM_CACHE_ROOT", str(tmp_path / "cache"))
    timed = []
    monkeypatch.setattr(schedule, "seconds", rising_seconds(timed))
    draft = draft_for(llava, tmp_path / "draft", knowing=True)
    with v2.engine(llava, draft, {"sizing": "auto", "num_speculative_tokens": 4}, max_num_batched_tokens=48) as llm:
        (first,) = llm.collective_rpc("specflash_schedule")
        measured = len(timed)
        assert measured and len(list((tmp_path / "cache" / step_costs.FOLDER).glob("*.json"))) == 1
        (second,) = llm.collective_rpc("specflash_schedule")
        assert second == first and len(timed) == measured
        assert first[0][0] == 1 and all(a[1] + 1 == b[0] for a, b in zip(first, first[1:]))
        assert answers(llm, ["user: hello"], greedy(4))
