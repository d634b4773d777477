import pytest
from dense import DenseDraft
from engines import answers, engine, greedy, mixed_prompts
from tiny_models import draft_for, tiny_llama, tiny_llava


@pytest.fixture(scope="session")
def llava(tmp_path_factory):
    return tiny_llava(tmp_path_factory.mktemp("targets") / "tiny-llava")


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("targets") / "tiny-llama")


@pytest.fixture(scope="session")
def drafts(llava, tmp_path_factory):
    """Drafts for the tiny LLaVA by name."""
    root = tmp_path_factory.mktemp("drafts")
    return {
        "knowing": draft_for(llava, root / "knowing", knowing=True),
        "random": draft_for(llava, root / "random", transition_rank=4, draft_vocab_size=40),
        "nan": draft_for(llava, root / "nan", nan=True),
        "plain": draft_for(llava, root / "plain", variant="plain", num_latents=32),
        "layers": draft_for(llava, root / "layers", knowing=True, target_layers=[1, 0]),
    }


@pytest.fixture(scope="session")
def noticing(llava, tmp_path_factory):
    """A draft in whose chances every row shows that it attends to."""
    return draft_for(llava, tmp_path_factory.mktemp("drafts") / "noticing", noticing=True)


@pytest.fixture(scope="session")
def dense(llava, noticing):
    """What that draft says by the forward of training."""
    return DenseDraft(llava, noticing)


@pytest.fixture(scope="session")
def plain_answers(llava):
    """What plain vLLM says to the mixed prompts."""
    with engine(llava) as llm:
        return answers(llm, mixed_prompts(), greedy())
