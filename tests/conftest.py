"""Environment and tiny targets that all tests share; set before anything imports vLLM."""

import json
import os

import pytest

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Engines run in the test process unless a test asks for a spawned one.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
for variable, value in ENVIRONMENT.items():
    os.environ.setdefault(variable, value)
# Checks that both model runners share say what they compared, as tests do.
pytest.register_assert_rewrite("feeding", "feeding_checks")


@pytest.fixture(scope="session")
def text_target(tmp_path_factory):
    """A tiny Llama whose `specflash/` folder holds a draft that is right about two times in three."""
    from drafts import draft_for
    from tiny_models import tiny_llama

    target = tiny_llama(tmp_path_factory.mktemp("targets") / "tiny-llama")
    draft_for(target, target / "specflash", knowing=True)
    return target


@pytest.fixture(scope="session")
def image_target(tmp_path_factory):
    """The same for a tiny LLaVA."""
    from drafts import draft_for
    from tiny_models import tiny_llava

    target = tiny_llava(tmp_path_factory.mktemp("targets") / "tiny-llava")
    draft_for(target, target / "specflash", knowing=True)
    return target


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    """The same LLaVA without a draft."""
    from tiny_models import tiny_llava

    return tiny_llava(tmp_path_factory.mktemp("targets") / "tiny-llava")


@pytest.fixture(scope="session")
def noticing(llava, tmp_path_factory):
    """A draft in whose chances every row shows that it attends to."""
    from drafts import draft_for

    return draft_for(llava, tmp_path_factory.mktemp("drafts") / "noticing", noticing=True)


@pytest.fixture(scope="session")
def dense(llava, noticing):
    """What that draft says by the forward of training."""
    from dense import DenseDraft

    return DenseDraft(llava, noticing)


@pytest.fixture(scope="session")
def server(image_target, tmp_path_factory):
    """Address of `vllm serve <tiny LLaVA> --speculative-config {...}`, its engine in a process of its own."""
    from engines import ALWAYS
    from serving import serve

    log = tmp_path_factory.mktemp("server") / "log.txt"
    options = ["--speculative-config", json.dumps(ALWAYS), "--dtype", "float32", "--enforce-eager", "--max-model-len", "512"]
    options += ["--kv-cache-memory-bytes", str(64 << 20), "--limit-mm-per-prompt", '{"image": 4}']
    with serve(image_target, log, *options, VLLM_MAX_IMAGE_PIXELS="1000000") as address:
        yield address
