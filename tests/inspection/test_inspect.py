"""A page about a tiny model's answer, and the recording behind it."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest
import torch
from engines import accepted_tokens, engine, noise_image, with_images
from typer.testing import CliRunner
from vllm import SamplingParams

from vllm_specflash.cli import app
from vllm_specflash.engine.latents import SpanPooler
from vllm_specflash.lab.inspection.record import Record
from vllm_specflash.lab.inspection.recorder import RECORDER

GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def recorded(image_target):
    """Answer, record, accepted tokens by vLLM's counter, and the latents that the engine pooled; prefill in chunks."""
    pooled = []
    original = SpanPooler.pool

    def pool(self, chunks, hidden_states, embeddings=None):
        finished = original(self, chunks, hidden_states, embeddings)
        pooled.extend(latents for _, _, latents in finished)
        return finished

    features = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpanPooler, "pool", pool)
        with engine(
            image_target, image_target / "specflash", worker_extension_cls=RECORDER, max_num_batched_tokens=40,
            max_num_seqs=1,
        ) as llm:  # fmt: skip
            llm.collective_rpc("inspect_install")
            before = accepted_tokens(llm)
            prompt = with_images("first <image> then some words and <image> compare them. assistant: ", 8, 9)
            (answer,) = llm.generate(prompt, GREEDY, use_tqdm=False)
            (tape,) = llm.collective_rpc(lambda worker: worker._inspect_tape)
            features = [torch.cat(span._chunks) for span in tape._spans.values()]
            record = Record.of(llm.collective_rpc("inspect_take")[0])
            accepted = accepted_tokens(llm) - before
    return answer, record, accepted, pooled, features


def test_every_token_of_the_answer_is_recorded(recorded):
    answer, record, accepted, _, _ = recorded
    tokens = record.tokens()
    assert [token for token, _, _ in tokens] == list(answer.outputs[0].token_ids)
    assert sum(kind == "accepted" for _, _, kind in tokens) == accepted > 0


def test_prefill_came_in_chunks_and_every_step_has_its_time(recorded):
    _, record, _, _, _ = recorded
    first = next(index for index, step in enumerate(record.steps) if step.emitted)
    assert first > 0
    assert all(step.target_seconds > 0 and step.draft_seconds > 0 for step in record.steps)


def test_weights_are_those_that_the_latents_were_pooled_with(recorded):
    _, record, _, pooled, features = recorded
    assert len(record.spans) == len(pooled) == 2
    for span, latents, hidden in zip(record.spans, pooled, features, strict=True):
        assert span.end - span.begin == len(span.weights[0]) == 16
        torch.testing.assert_close(torch.tensor(span.weights) @ hidden, latents, atol=1e-4, rtol=1e-4)


class _Page(HTMLParser):
    """Tags in order, checked to be closed; texts by class."""

    VOID = {"meta", "img", "link", "br"}

    def __init__(self, html: str):
        super().__init__()
        self.open, self.attributes = [], []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.attributes.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(image_target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspect")
    arguments = ["--target", image_target, "--prompt", "<b>what</b> & why?", "--out", folder / "page.html"]
    for seed in (1, 2):
        noise_image(seed).save(folder / f"{seed}.png")
        arguments += ["--image", folder / f"{seed}.png"]
    arguments += ["--max-tokens", 24, "--max-model-len", 256, "--enforce-eager", "--dtype", "float32", "--sizing", "longest"]
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return (folder / "page.html").read_text(), result.output


def test_page_needs_no_network_and_fits_a_phone(page):
    html, _ = page
    parsed = _Page(html)
    assert parsed.open == []
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parsed.attributes
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "http" not in html
    assert not re.search(r"url\((?!data:)", html) and "<script" not in html


def test_page_shows_pictures_latents_answer_and_steps(page):
    html, printed = page
    # Two pictures, four latents each.
    assert html.count("<figure>") == 8 and html.count("16 latents") == 0 and html.count("4 x 4 visual tokens") == 2
    pieces = re.findall(r'<a class="(?:own|accepted)"[^>]*>(.*?)</a>', html, re.DOTALL)
    answer = unescape("".join(pieces))
    assert len(answer) == 24 and answer.strip()[:8] in printed
    steps = re.findall(r'<li id="step-(\d+)">', html)
    assert steps == [str(number + 1) for number in range(len(steps))] and len(steps) > 4
    assert 'class="node accepted"' in html and 'class="node rejected"' in html
    assert "&lt;b&gt;what&lt;/b&gt; &amp; why?" in html


def test_a_missing_picture_is_one_sentence(image_target, tmp_path):
    arguments = ["--target", str(image_target), "--prompt", "what?", "--image", str(tmp_path / "none.png")]
    result = CliRunner().invoke(app, ["inspect", *arguments])
    assert result.exit_code == 1
    assert "There is no picture" in result.output and "Traceback" not in result.output


PHONE = 360
MEASURE = """
<iframe id="frame" src="{page}" style="width:{width}px;height:640px;border:0"></iframe><pre id="out"></pre>
<script>frame.onload = () => {{
  const shown = frame.contentDocument, root = shown.documentElement;
  out.textContent = JSON.stringify({{
    room: root.clientWidth, needed: root.scrollWidth, broken: [...shown.images].filter(i => !i.naturalWidth).length,
    looks: [...shown.querySelectorAll(".looks .view")].filter(v => v.clientHeight > 40).length,
  }});
}};</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no browser here")
def test_page_in_a_browser_as_narrow_as_a_phone(page, tmp_path):
    (tmp_path / "page.html").write_text(page[0])
    (tmp_path / "phone.html").write_text(MEASURE.format(page="page.html", width=PHONE))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += ["--dump-dom", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000", f"file://{tmp_path}/phone.html"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    measured = json.loads(re.search(r'<pre id="out">(.*?)</pre>', run.stdout)[1])
    assert measured["needed"] <= measured["room"] <= PHONE
    assert measured["broken"] == 0 and measured["looks"] == 8
