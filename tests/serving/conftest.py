import pytest
from openai import OpenAI
from questions import MODEL


@pytest.fixture(scope="session")
def client(server):
    return OpenAI(base_url=f"{server}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def ask(client):
    """`ask(messages, ...)`: the whole answer; greedy, 32 tokens, unless told otherwise."""

    def create(messages, **arguments):
        return client.chat.completions.create(
            **{"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": 32, **arguments}
        )

    return create
