"""The real engine on Model Runner V2, its kernels and ours interpreted where there is no GPU. Run by `make v2`, in a process of its own."""

import os

import v2

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
v2.use_interpreter()

import pytest  # noqa: E402
import tiny_models  # noqa: E402
import torch  # noqa: E402
from drafts import named_drafts  # noqa: E402
from engines import answers, greedy, mixed_prompts  # noqa: E402
from tiny_models import tiny_llama  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def v2_engines():
    if torch.cuda.is_available():
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        v2.keep_async_scheduling(patch)
        v2.without_sorting_kernel(patch)
        v2.torch_paths(patch)
        v2.take_integer_masks(patch)
        v2.torch_prompts(patch)
        v2.unpinned_pictures(patch)
        yield


@pytest.fixture(scope="session")
def drafts(llava, tmp_path_factory):
    return named_drafts(llava, tmp_path_factory.mktemp("drafts"), num_rounds=2, semi_ar_width=3)


@pytest.fixture(scope="session")
def json_llama(tmp_path_factory):
    """A tiny Llama that can write JSON."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_models, "CHARACTERS", tiny_models.CHARACTERS + '{}"[]')
        return tiny_llama(tmp_path_factory.mktemp("json") / "tiny-llama")


@pytest.fixture(scope="session")
def plain_answers(v2_engines, llava):
    """What plain vLLM says to the mixed prompts."""
    with v2.engine(llava) as llm:
        return answers(llm, mixed_prompts(), greedy(32))


@pytest.fixture
def misranking(monkeypatch):
    """Drafts whose side paths carry the truth: KV moves in most steps."""
    v2.misrank(monkeypatch)


@pytest.fixture
def vllms_kernels(monkeypatch):
    """vLLM's attention over prompts by its own kernel after all."""
    from vllm.v1.attention.backends import triton_attn
    from vllm.v1.attention.ops.triton_unified_attention import unified_attention

    monkeypatch.setattr(triton_attn, "unified_attention", unified_attention)
