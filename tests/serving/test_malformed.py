"""Malformed requests get HTTP 4xx, and nobody else notices."""

import json
import threading
import urllib.error
import urllib.request

import pytest
from questions import MODEL, question

from vllm_specflash.lab.soak.hostile import BODIES, FAULTED_BY_VLLM, MALFORMED

FAULTED = {
    **FAULTED_BY_VLLM,
    # The tiny target has no brace among its tokens; most others have one.
    "a schema that no token begins": (500, {"messages": question(), "structured_outputs": {"json": {"type": "object"}}}),
}


def _status(server: str, body: bytes) -> tuple[int, str]:
    request = urllib.request.Request(
        f"{server}/v1/chat/completions", data=body, headers={"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _body(fields: dict) -> bytes:
    return json.dumps({"model": MODEL, "max_tokens": 8, **fields}).encode()


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_request_gets_4xx(server, fields):
    status, text = _status(server, _body(fields))
    assert 400 <= status < 500, text[:500]


@pytest.mark.parametrize("setting", [{"min_p": 0.1}, {"logit_bias": {"5": 1.0}}], ids=str)
def test_what_vllm_refuses_with_any_speculation_gets_400(server, setting):
    status, text = _status(server, _body({"messages": question(), **setting}))
    assert status == 400 and "not yet supported with speculative decoding" in text


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request_gets_4xx(server, body):
    status, text = _status(server, body)
    assert 400 <= status < 500, text[:500]


@pytest.mark.parametrize(("documented", "fields"), FAULTED.values(), ids=FAULTED)
def test_what_vllm_faults_is_refused_all_the_same(server, ask, documented, fields):
    status, text = _status(server, _body(fields))
    assert status == documented and "error" in json.loads(text)
    assert ask(question(1)).usage.completion_tokens == 32


DISTURBING = [*list(MALFORMED.values())[::4], *(fields for _, fields in FAULTED.values())]


def test_others_do_not_notice(server, ask):
    """Good answers, asked alone, stay the same while malformed requests pour in."""
    good = [question(1), question(2, 3), question(text="hello there")]
    alone = [ask(messages).choices[0].message.content for messages in good]
    stop, statuses = threading.Event(), []

    def disturb(fields):
        while not stop.is_set():
            statuses.append(_status(server, _body(fields))[0])

    disturbers = [threading.Thread(target=disturb, args=(fields,)) for fields in DISTURBING]
    for disturber in disturbers:
        disturber.start()
    try:
        among_malformed = [ask(messages).choices[0].message.content for messages in good * 3]
    finally:
        stop.set()
        for disturber in disturbers:
            disturber.join()
    assert among_malformed == alone * 3
    assert len(statuses) >= len(disturbers) and all(400 <= status <= 501 for status in statuses)
