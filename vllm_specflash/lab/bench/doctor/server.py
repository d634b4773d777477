"""A server at work, by what its /metrics counted."""

import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

from vllm_specflash.config import first_sentence
from vllm_specflash.lab.bench.doctor.finding import FAULT, NOTE, OK, Finding, guarded

SECONDS = 10
# Below these the counters say nothing yet, and above them that the draft is of little use.
DECODES, ACCEPTED, PAUSED = 500, 1.2, 0.5


def examine_server(address: str) -> Iterator[Finding]:
    """Findings about the server at an address like http://localhost:8000."""
    given = urlsplit(address if "://" in address else f"http://{address}")
    base = f"{given.scheme}://{given.netloc}"
    try:
        with urllib.request.urlopen(f"{base}/metrics", timeout=SECONDS) as answer:
            totals = _totals(answer.read().decode())
    except (OSError, ValueError) as error:
        yield Finding("server", FAULT, f"{base}/metrics does not answer: {first_sentence(error)}", "Give the address of `vllm serve`.")
        return
    if not any(name.startswith("vllm:") for name in totals):
        yield Finding("server", FAULT, f"{base} has no metrics of vLLM's", "Give the address of `vllm serve`, started without --disable-log-stats.")
        return
    yield Finding("server", OK, f"{base}, {totals.get('vllm:num_requests_running', 0):.0f} requests running")
    if "vllm:specflash_steps_total" not in totals:
        yield Finding(
            "draft", FAULT, "it serves without SpecFLASH, or its metrics were lost",
            "Start it with --speculative-config, and look for `vllm:specflash_*` in its log.",
        )  # fmt: skip
        return
    counts = {name.removeprefix("vllm:specflash_").removesuffix("_total"): value for name, value in totals.items()}
    yield guarded("errors", lambda: _errors(counts))
    yield guarded("drafting", lambda: _drafting(counts))


def _totals(text: str) -> dict[str, float]:
    """Every metric summed over its labels."""
    from prometheus_client.parser import text_string_to_metric_families

    totals: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
    return totals


def _errors(counts: dict[str, float]) -> Finding:
    failed, steps = counts["errors"], counts["steps"]
    if not failed:
        return Finding("errors", OK, f"none in {steps:,.0f} steps")
    return Finding(
        "errors", FAULT, f"the draft side failed in {failed:,.0f} of {steps:,.0f} steps; answers are right, only slower",
        "The server's log has the first traceback, after 'SpecFLASH could not draft'; please report it.",
    )  # fmt: skip


def _drafting(counts: dict[str, float]) -> Finding:
    steps, decodes = counts["steps"], counts["decodes"]
    if decodes < DECODES:
        return Finding("drafting", OK, f"{decodes:,.0f} forwards of requests so far: too few to judge")
    tau, paused = counts["decoded_tokens"] / decodes, counts["paused_steps"] / max(steps, 1)
    found = f"{tau:.2f} tokens per forward and request, paused in {paused:.0%} of the steps"
    if tau < ACCEPTED:
        return Finding("drafting", NOTE, found, "The draft does not fit what is asked: train it on such prompts, or serve without it.")
    if paused > PAUSED:
        return Finding("drafting", NOTE, found, "At this load drafting seldom pays.")
    return Finding("drafting", OK, found)
