"""A few seconds of a real soak, and what would make one fail."""

import json
import re
import sys

import pytest
from engines import noise_image
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.lab.bench.identity import Agreement, Difference
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.lab.serving.server import Server
from vllm_specflash.lab.soak import soak as soak_module
from vllm_specflash.lab.soak.hostile import Refusals, bodies
from vllm_specflash.lab.soak.memory import growth
from vllm_specflash.lab.soak.result import Held, SoakResult
from vllm_specflash.lab.soak.soak import SoakOptions, _arguments

MIB = 2**20


@pytest.fixture(scope="module")
def prompts_folder(tmp_path_factory):
    """Words, one picture, and clips of four."""
    folder = tmp_path_factory.mktemp("prompts")
    records = [{"id": f"text-{i}", "task": "words", "prompt": f"hello, who are you? {i}"} for i in range(3)]
    for i in range(6):
        noise_image(i).save(folder / f"{i}.png")
    for i in range(2):
        records.append({"id": f"picture-{i}", "task": "pictures", "prompt": "what is this?", "images": [f"{i}.png"]})
        clip = [f"{i + frame}.png" for frame in range(4)]
        records.append({"id": f"clip-{i}", "task": "clips", "prompt": "what moves?", "images": clip})
    (folder / "prompts.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def soaked(image_target, prompts_folder, tmp_path_factory):
    """Exit code, output on one line, and the written record of a soak of seconds."""
    out = tmp_path_factory.mktemp("soak") / "soak.json"
    arguments = ["soak", "--target", image_target, "--data", prompts_folder, "--out", out, "--enforce-eager"]
    for task in ("words", "pictures", "clips"):
        arguments += ["--task", task]
    for option, value in {
        "minutes": 0.1, "settle-minutes": 0.0, "clients": 6, "prompts": 7, "max-tokens": 40, "max-model-len": 256,
        "kv-cache-mib": 1, "abort-share": 0.3, "sizing": "longest", "hostile": 2,
    }.items():  # fmt: skip
        arguments += [f"--{option}", value]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert out.is_file(), result.output
    return result.exit_code, re.sub(r"\s+", " ", result.output), json.loads(out.read_text())


def test_a_short_soak_is_clean(soaked):
    _, output, record = soaked
    result = record["result"]
    assert result["errors"] == {} and result["draft_failures"] == 0, output
    assert result["held"] == {"running": 0, "waiting": 0, "kv_cache": 0}
    assert result["completed"] + result["aborted"] == result["requests"]


def test_a_soak_does_what_it_claims(soaked):
    """Aborts, all kinds of prompts, drafts that are accepted, and answers that were compared."""
    _, output, record = soaked
    result = record["result"]
    assert result["aborted"] > 0 and result["tokens_per_step"] > 1.2
    assert all(result["by_kind"][kind] > 0 for kind in ("words", "pictures", "clips", "greedy"))
    agreement = result["agreement"]
    assert agreement["compared"] > 3 and agreement["identical"] == agreement["compared"], output
    assert "greedy answers identical to plain vLLM's" in output
    # A budget that holds five blocks, for six clients of two blocks each.
    assert result["peak_kv_cache"] >= 0.6 and result["preemptions"] > 0
    assert record["summary"] and record["options"]["kv_cache_mib"] == 1


def test_malformed_requests_are_refused_while_others_are_answered(soaked):
    """Whole rounds of all of them, by two clients; the tests above say that good answers are what they were."""
    _, output, record = soaked
    malformed, sent = record["result"]["malformed"], len(bodies(""))
    assert malformed["wrong"] == {}, output
    assert malformed["requests"] >= 2 * sent and malformed["requests"] % sent == 0
    assert sum(malformed["statuses"].values()) == malformed["requests"]
    assert malformed["statuses"]["500"] == 3 * malformed["statuses"]["501"]
    assert f"{malformed['requests']} malformed requests beside them, all refused as documented (" in output


def test_memory_growth_is_seen_where_there_is_some():
    flat = [(float(t), 1000 * MIB + (t % 7) * MIB) for t in range(0, 600, 5)]
    assert abs(growth(flat, 120)) < 0.005
    leaking = [(float(t), 1000 * MIB + t * MIB) for t in range(0, 600, 5)]
    assert growth(leaking, 120) == pytest.approx((547 - 168) / 1168, abs=0.02)


def test_memory_of_the_start_up_phase_is_left_out():
    starting = [(float(t), min(t, 120) * MIB + MIB) for t in range(0, 600, 5)]
    assert growth(starting, 0) > 1 and growth(starting, 120) == 0
    assert growth(starting[:10], 120) is None


CLEAN = SoakResult(
    seconds=60.0, requests=10, completed=8, aborted=2, by_kind={"chat": 10, "greedy": 5}, errors={}, draft_failures=0,
    generated_tokens=100, held=Held(0, 0, 0), preemptions=0, peak_kv_cache=0.5, tokens_per_step=2.0,
    memory=[(0.0, MIB)], memory_growth=0.001, agreement=Agreement(5, 5, []), malformed=Refusals(36, {"400": 36}, {}),
)  # fmt: skip


@pytest.mark.parametrize(
    "fault",
    [
        {"errors": {"APIError: no": 1}},
        {"draft_failures": 1},
        {"held": Held(1, 0, 0)},
        {"held": Held(0, 1, 0)},
        {"held": Held(0, 0, 0.01)},
        {"memory_growth": 0.02},
        {"agreement": Agreement(4, 5, [Difference("chat-0", 3, 50.0)])},
        {"agreement": Agreement(4, 5, [Difference("chat-0", 3, None)])},
        {"malformed": Refusals(36, {"400": 35, "200": 1}, {"n of none: 200": 1})},
    ],
    ids=lambda fault: "-".join(fault),
)
def test_a_fault_is_not_clean(fault):
    assert CLEAN.clean
    assert not SoakResult(**{**vars(CLEAN), **fault}).clean


def test_plain_differs_from_ours_by_the_speculation_alone():
    target = Target("tiny", "folder", "draft", ("words",))
    ours, plain = _arguments(target, SoakOptions()), _arguments(target, SoakOptions(plain=True))
    option, given = [word for word in ours if word not in plain]
    assert option == "--speculative-config"
    assert json.loads(given) == {"method": "specflash", "model": "draft", "sizing": "auto"}
    assert set(plain) < set(ours)
    # vLLM takes no less, and hostile clients may come alone.
    alone = _arguments(target, SoakOptions(clients=0))
    assert alone[alone.index("--max-num-seqs") + 1] == "1"


# As much of a server as a soak asks for: one answer to whatever is posted, or its end.
STAND_IN = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()

    def do_POST(self):
        if sys.argv[2] == "ends":
            os._exit(7)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(int(sys.argv[2]))
        self.end_headers()

HTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""


@pytest.fixture
def soak_of(monkeypatch, tmp_path):
    """`soak_of(answer)`: exit code and output of a soak of a stand-in that answers so, by one hostile client alone."""

    def run(answer):
        class StandIn(Server):
            def __init__(self, *given):
                super().__init__(*given)
                self._command = [sys.executable, "-c", STAND_IN, self.address.rsplit(":", 1)[1], answer]

        monkeypatch.setattr(soak_module, "Server", StandIn)
        monkeypatch.setattr(soak_module, "_reference", lambda *_: {})
        monkeypatch.setenv("SPECFLASH_CACHE", str(tmp_path))
        arguments = ["soak", "--target", str(tmp_path), "--draft", str(tmp_path), "--clients", "0", "--hostile", "1"]
        result = CliRunner().invoke(app, [*arguments, "--minutes", "0.001"])
        return result.exit_code, re.sub(r"\s+", " ", result.output)

    return run


def test_a_wrong_status_fails_the_soak(soak_of):
    """501 is documented for one of them alone."""
    code, output = soak_of("501")
    found = re.search(r"(\d+) of (\d+) malformed requests were not refused as documented: bad base64: 501", output)
    wrong, sent = map(int, found.groups())
    rounds, rest = divmod(sent, len(bodies("")))
    assert code == 1 and rounds and not rest and wrong == sent - rounds
    assert f"n of none: 501 ({rounds} times)" in output and "picture of text without base64" not in output


def test_the_documented_statuses_are_clean(soak_of):
    code, output = soak_of("400")
    sent = int(re.search(r"(\d+) malformed requests beside them, all refused as documented \(", output)[1])
    assert code == 0 and sent and sent % len(bodies("")) == 0


def test_a_server_that_ends_under_load_fails_the_soak(soak_of):
    code, output = soak_of("ends")
    assert code == 1 and re.search(r"vllm serve ended with 7 under load; its log is \S+soak-server\.log\. ?$", output)
