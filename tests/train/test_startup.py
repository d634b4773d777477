"""Engines of our commands ask for the memory they need, and one that does not start says why in a sentence."""

import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import psutil
import pytest
from transformers import LlamaConfig

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train import generate
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.startup import cause, cpu_kv_cache, output_to, start_engine, why_not

LOG = """(EngineCore pid=12) INFO 11-24 20:36:40 [core.py:99] Initializing
(EngineCore pid=12) ERROR 11-24 20:36:41 [core.py:1084] Traceback (most recent call last):
(EngineCore pid=12) ERROR 11-24 20:36:41 [core.py:1084]   File "core.py", line 1, in run
(EngineCore pid=12) ERROR 11-24 20:36:41 [core.py:1084] ValueError: Available memory on node 0 (10.1/23.5 GiB) on startup is less than \
desired CPU memory utilization (0.92, 21.6 GiB). On the CPU backend, the flag controls the fraction.
Traceback (most recent call last):
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}
"""
SAID = "ValueError: Available memory on node 0 (10.1/23.5 GiB) on startup is less than desired CPU memory utilization (0.92, 21.6 GiB)"


def test_the_cause_is_what_was_raised_first():
    assert cause(LOG) == SAID
    assert cause("INFO all is well\n") is None
    assert cause("pydantic.ValidationError: 1 validation error for ModelConfig Value error, no such model. More.") == "no such model"


def test_the_sentence_says_what_to_set(tmp_path):
    says = why_not("org/model", SAID, tmp_path / "vllm.log")
    expected = "set VLLM_CPU_KVCACHE_SPACE to the GiB that the KV cache may take; "
    assert says == f"vLLM failed for org/model: {SAID}; {expected}its log is {tmp_path}/vllm.log."


def test_an_engine_that_does_not_start_is_one_sentence(text_target, tmp_path, monkeypatch):
    # The environment's word would go before the argument's.
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    log = tmp_path / "logs" / "vllm.log"
    with pytest.raises(SpecFlashError) as error:
        start_engine(log, model=str(text_target), dtype="float32", enforce_eager=True, max_model_len=512, kv_cache_memory_bytes=1 << 12)
    message = str(error.value)
    assert message.startswith(f"vLLM failed for {text_target}: ") and message.endswith(f"its log is {log}.") and "\n" not in message
    assert "ValueError: No available memory for the cache blocks; give the KV cache more (VLLM_CPU_KVCACHE_SPACE on a CPU" in message
    assert log.stat().st_size > 100


def test_an_engine_that_dies_is_one_sentence_and_no_answer_is_lost(text_target, tmp_path, monkeypatch):
    # The engine is a process of its own, as it is for users.
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    asked = [Prompt(f"q{i}", "chat", [{"role": "user", "content": "a" * (i + 1)}]) for i in range(4)]
    options = generate.GenerationOptions(max_tokens=4, max_model_len=128, batch=2)
    ask = generate._ask

    def ask_once(llm, *others):
        monkeypatch.setattr(generate, "_ask", ask_dying)
        return ask(llm, *others)

    def ask_dying(*all):
        for child in psutil.Process().children(recursive=True):
            if "Worker" in " ".join(child.cmdline()):
                child.kill()
        return ask(*all)

    monkeypatch.setattr(generate, "_ask", ask_once)
    with pytest.raises(SpecFlashError, match="vLLM's engine of .* ended while it answered, .*: repeat the command, which goes on"):
        generate.generate_answers(asked, str(text_target), tmp_path / "answers", options, Counter())
    assert AnswerFolder(tmp_path / "answers").ids() == {"q0", "q1"}


def test_output_of_child_processes_goes_to_the_log_too(tmp_path, capfd):
    with output_to(tmp_path / "log"):
        subprocess.run([sys.executable, "-c", "print('from a child')"], check=True)
        print("from here")
    print("again here")
    assert "from a child" in (tmp_path / "log").read_text()
    said = capfd.readouterr().out
    assert "again here" in said and "from a child" not in said


CONFIG = LlamaConfig(num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2, head_dim=32, hidden_size=128)


def test_a_cpu_engine_asks_for_what_its_sequences_need(monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    # Keys and values of three layers and the draft's, two heads of 32, two bytes.
    assert cpu_kv_cache(CONFIG, sequences=8, length=100) == {"kv_cache_memory_bytes": 8 * 100 * 2 * 4 * 2 * 32 * 2}


def test_it_asks_for_no_more_than_half_of_what_is_free(monkeypatch):
    import psutil

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1 << 20))
    assert cpu_kv_cache(CONFIG, sequences=128, length=2048) == {"kv_cache_memory_bytes": 1 << 19}


def test_what_the_environment_says_stands(monkeypatch):
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "3")
    assert cpu_kv_cache(CONFIG, sequences=8, length=100) == {}


def test_generating_answers_asks_for_it(text_target, tmp_path, monkeypatch):
    from collections import Counter

    from vllm_specflash.train.prompts import Prompt

    class Asked(Exception):
        pass

    def asked(log, **arguments):
        assert log == tmp_path / "answers" / "vllm.log"
        # Two layers and the draft's.
        assert arguments["kv_cache_memory_bytes"] == 4 * 64 * 2 * 3 * 2 * 32 * 2
        raise Asked

    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE")
    monkeypatch.setattr(generate, "start_engine", asked)
    prompts = [Prompt("a", "chat", [{"role": "user", "content": "hello"}])]
    options = generate.GenerationOptions(batch=4, max_model_len=64)
    with pytest.raises(Asked):
        generate.generate_answers(prompts, str(text_target), tmp_path / "answers", options, Counter())
