"""The doctor is right about running servers, by what their /metrics say."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from vllm_specflash.lab.bench.doctor import FAULT, examine_server

METRICS = """# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0"} 2
# TYPE vllm:specflash_steps counter
vllm:specflash_steps_total{engine="0"} 3000
vllm:specflash_steps_total{engine="1"} 1000
# TYPE vllm:specflash_errors counter
vllm:specflash_errors_total{engine="0"} ERRORS
# TYPE vllm:specflash_paused_steps counter
vllm:specflash_paused_steps_total{engine="0"} PAUSED
# TYPE vllm:specflash_decodes counter
vllm:specflash_decodes_total{engine="0"} 1000
# TYPE vllm:specflash_decoded_tokens counter
vllm:specflash_decoded_tokens_total{engine="0"} TOKENS
"""
WELL = {"ERRORS": 0, "PAUSED": 400, "TOKENS": 2500}


@pytest.fixture
def metrics():
    """`metrics(text)`: address of a server whose /metrics says that."""
    said = {}

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(said["text"].encode())

        def log_message(self, *_):
            pass

    served = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=served.serve_forever, daemon=True).start()

    def say(text: str, **counts) -> str:
        for name, value in counts.items():
            text = text.replace(name, str(value))
        said["text"] = text
        return f"127.0.0.1:{served.server_port}"

    yield say
    served.shutdown()


@pytest.mark.parametrize(
    "counts, state, subject, says",
    [
        ({}, "ok", "errors", "none in 4,000 steps"),
        ({}, "ok", "drafting", "2.50 tokens per forward and request, paused in 10% of the steps"),
        ({"ERRORS": 12}, "fault", "errors", "the draft side failed in 12 of 4,000 steps; answers are right, only slower"),
        ({"TOKENS": 1100}, "note", "drafting", "1.10 tokens"),
        ({"PAUSED": 3000}, "note", "drafting", "paused in 75% of the steps"),
    ],
)
def test_a_server_is_judged_by_its_metrics(metrics, counts, state, subject, says):
    findings = {finding.subject: finding for finding in examine_server(metrics(METRICS, **{**WELL, **counts}))}
    assert findings["server"].state == "ok" and "2 requests running" in findings["server"].found
    assert findings[subject].state == state and says in findings[subject].found


@pytest.mark.parametrize(
    "text, subject, says",
    [
        ("# TYPE vllm:num_requests_running gauge\nvllm:num_requests_running 0\n", "draft", "it serves without SpecFLASH"),
        ("# TYPE other gauge\nother 1\n", "server", "has no metrics of vLLM's"),
    ],
)
def test_a_server_without_drafts_is_found(metrics, text, subject, says):
    (fault,) = [finding for finding in examine_server(metrics(text)) if finding.state == FAULT]
    assert fault.subject == subject and says in fault.found


def test_no_server():
    (fault,) = examine_server("http://127.0.0.1:9")
    assert fault.state == FAULT and "http://127.0.0.1:9/metrics does not answer" in fault.found


def test_a_real_server_is_well(server):
    assert not [finding for finding in examine_server(server) if finding.state == FAULT]
