"""Malformed requests get HTTP 4xx, and nobody else notices."""

import json
import struct
import threading
import urllib.error
import urllib.request
import zlib

import pytest
from questions import MODEL, as_url, data_url, image, question


def _png_of(width: int, height: int) -> bytes:
    """A picture that says it is that large, and holds next to nothing; the server takes a million pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def _asking(*parts: dict) -> dict:
    return {"messages": [{"role": "user", "content": [*parts, {"type": "text", "text": "what?"}]}]}


MALFORMED = {
    "bad base64": _asking(image("data:image/png;base64,%%%not base64%%%")),
    "base64 of words": _asking(image(as_url(b"this is no picture"))),
    "empty picture": _asking(image(as_url(b""))),
    "picture cut short": _asking(image(data_url(1)[:200])),
    "huge picture": _asking(image(as_url(_png_of(5_000, 5_000)))),
    "picture without pixels": _asking(image(as_url(_png_of(0, 0)))),
    "data url without data": _asking(image("data:image/png")),
    "address that is none": _asking(image("pictures/scene.png")),
    "part of an unknown type": _asking({"type": "smell", "smell": "rose"}),
    "picture that is a number": _asking({"type": "image_url", "image_url": {"url": 7}}),
    "too many pictures": {"messages": question(1, 2, 3, 4, 5)},
    "a video to a model of pictures": _asking({"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,aa"}}),
    "messages that are a word": {"messages": "hello"},
    "no messages": {},
    "content that is a number": {"messages": [{"role": "user", "content": 7}]},
    "temperature that is a word": {"messages": question(), "temperature": "hot"},
    "negative max_tokens": {"messages": question(), "max_tokens": -1},
    "n of none": {"messages": question(), "n": 0},
    "too many logprobs": {"messages": question(), "logprobs": True, "top_logprobs": 10_000},
    "prompt longer than the model": {"messages": question(text="a" * 2000)},
    "an empty grammar": {"messages": question(), "structured_outputs": {"grammar": ""}},
    "a grammar that is none": {"messages": question(), "structured_outputs": {"regex": "(["}},
    "an unknown model": {"messages": question(), "model": "huge"},
}

# Stock vLLM 0.32 answers these with 5xx, though the fault is the client's; with a draft or without.
FAULTED_BY_VLLM = {
    "picture beyond PIL's own limit": _asking(image(as_url(_png_of(30_000, 30_000)))),
    "file of the server": _asking(image("file:///etc/passwd")),
    "picture at an address that does not answer": _asking(image("http://127.0.0.1:9/picture.png")),
    "picture of text without base64": _asking(image("data:image/png,abc")),
    # The tiny target has no brace among its tokens.
    "a schema that no token begins": {"messages": question(), "structured_outputs": {"json": {"type": "object"}}},
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


BODIES = {"empty": b"", "cut": b"{", "list": b"[]", "bytes": b"\xff\xfe", "word": b'"hello"'}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_body_that_is_no_request_gets_4xx(server, body):
    status, text = _status(server, body)
    assert 400 <= status < 500, text[:500]


@pytest.mark.parametrize("fields", FAULTED_BY_VLLM.values(), ids=FAULTED_BY_VLLM)
def test_what_vllm_faults_is_refused_all_the_same(server, ask, fields):
    status, text = _status(server, _body(fields))
    assert status in (500, 501) and "error" in json.loads(text)
    assert ask(question(1)).usage.completion_tokens == 32


DISTURBING = [*list(MALFORMED.values())[::4], *FAULTED_BY_VLLM.values()]


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
