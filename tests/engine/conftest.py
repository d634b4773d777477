import pytest
from drafts import named_drafts
from engines import answers, engine, greedy, mixed_prompts
from tiny_models import tiny_llama


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return tiny_llama(tmp_path_factory.mktemp("targets") / "tiny-llama")


@pytest.fixture(scope="session")
def drafts(llava, tmp_path_factory):
    return named_drafts(llava, tmp_path_factory.mktemp("drafts"))


@pytest.fixture(scope="session")
def plain_answers(llava):
    """What plain vLLM says to the mixed prompts."""
    with engine(llava) as llm:
        return answers(llm, mixed_prompts(), greedy())
