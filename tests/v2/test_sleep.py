"""What throws weights away is refused: vLLM would load the target's again, and nobody the draft's."""

import pytest
from sentences import one_sentence
from vllm.v1.worker import gpu_worker

from vllm_specflash.config import SpecFlashError
from vllm_specflash.engine.v2.worker import SpecFlashGPUWorker


def test_a_sleep_that_the_draft_would_not_survive_is_one_sentence(monkeypatch):
    slept = []
    monkeypatch.setattr(gpu_worker.Worker, "sleep", lambda worker, level: slept.append(level))
    worker = object.__new__(SpecFlashGPUWorker)
    worker.sleep(1)
    with pytest.raises(SpecFlashError) as error:
        worker.sleep(2)
    assert "would not survive sleep of level 2: use level 1" in one_sentence(error) and slept == [1]
