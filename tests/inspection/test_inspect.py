"""A page about a tiny model's answer."""

import json
import re
import shutil
import subprocess
from html import unescape
from html.parser import HTMLParser

import pytest
from drafts import draft_for
from engines import noise_image
from typer.testing import CliRunner

from vllm_specflash.cli import app

CELL = re.compile(r'<i( class="top")? style="--look:[\d.]+" title="latent (\d) of picture (\d): ([\d.]+)%"></i>')
LOOKED = re.compile(
    r'<li id="step-(\d+)">(?:(?!<li).)*?Looked most at (latent \d of picture \d \(\d+%\))', re.DOTALL
)  # fmt: skip
# Latents in no order, and in that of the picture.
DRAFTS = {"paper": {}, "placed": {"compressor": "placed", "latent_positions": 16, "visual_features": "embeddings"}}


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


@pytest.fixture(scope="module", params=DRAFTS)
def page(request, image_target, tmp_path_factory):
    """The page, what was printed, and whether its latents lie as the picture does."""
    folder = tmp_path_factory.mktemp("inspect")
    draft = draft_for(image_target, folder / "draft", knowing=True, **DRAFTS[request.param])
    arguments = ["--target", image_target, "--draft", draft, "--out", folder / "page.html"]
    arguments += ["--prompt", "<b>what</b> & why?"]
    for seed in (1, 2):
        noise_image(seed).save(folder / f"{seed}.png")
        arguments += ["--image", folder / f"{seed}.png"]
    arguments += ["--max-tokens", 24, "--max-model-len", 256, "--enforce-eager", "--dtype", "float32", "--sizing", "longest"]
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return (folder / "page.html").read_text(), result.output, request.param == "placed"


def test_page_needs_no_network_and_fits_a_phone(page):
    html, _, _ = page
    parsed = _Page(html)
    assert parsed.open == []
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in parsed.attributes
    assert not re.search(r"(src|href)=\"(?!data:|#)", html) and "http" not in html
    assert not re.search(r"url\((?!data:)", html) and "<script" not in html


def test_page_shows_pictures_latents_answer_and_steps(page):
    html, printed, _ = page
    # Two pictures, four latents each.
    assert html.count("<figure>") == 8 and html.count("16 latents") == 0 and html.count("4 x 4 visual tokens") == 2
    pieces = re.findall(r'<a class="(?:own|accepted)"[^>]*>(.*?)</a>', html, re.DOTALL)
    answer = unescape("".join(pieces))
    assert len(answer) == 24 and answer.strip()[:8] in printed
    steps = re.findall(r'<li id="step-(\d+)">', html)
    assert steps == [str(number + 1) for number in range(len(steps))] and len(steps) > 4
    assert 'class="node accepted"' in html and 'class="node rejected"' in html
    assert "&lt;b&gt;what&lt;/b&gt; &amp; why?" in html


def test_page_shows_what_the_draft_looked_at_in_each_step(page):
    html, _, in_place = page
    steps = [step for step in html.split("<li id=")[1:] if 'class="tree"' in step]
    assert len(steps) > 3
    for step in steps:
        cells = CELL.findall(step)
        assert ["".join(where) for _, *where, _ in cells] == [f"{m}{p}" for p in (1, 2) for m in (1, 2, 3, 4)]
        shares = [float(share) for *_, share in cells]
        text = int(re.search(r"; text (\d+)%", step)[1])
        assert sum(shares) + text == pytest.approx(100, abs=1)
        # One is framed: what the sentence names, and what got the most.
        (top,) = [cell for cell in cells if cell[0]]
        assert float(top[-1]) == max(shares)
        assert f"Looked most at latent {top[1]} of picture {top[2]} (" in step
        assert step.count("grid-template-columns:repeat(2,1fr)") == (2 if in_place else 0)
    assert re.search(r'--look:1\.000"', html)


def test_a_drafted_tokens_title_names_the_latent(page):
    html, _, _ = page
    looked = dict(LOOKED.findall(html))
    titles = re.findall(r'<a class="(\w+)" href="#step-(\d+)" title="([^"]*)">', html)
    assert {kind for kind, _, _ in titles} == {"accepted", "own"}
    for kind, step, title in titles:
        drafted = f": drafted while looking at {looked[step]}" if kind == "accepted" else ""
        assert title == f"step {step}{drafted}"


def test_a_missing_picture_is_one_sentence(image_target, tmp_path):
    arguments = ["--target", str(image_target), "--prompt", "what?", "--image", str(tmp_path / "none.png")]
    result = CliRunner().invoke(app, ["inspect", *arguments])
    assert result.exit_code == 1
    assert "There is no picture" in result.output and "Traceback" not in result.output


def test_a_file_that_is_no_picture_is_one_sentence_before_an_engine_starts(image_target, tmp_path, monkeypatch):
    monkeypatch.setattr("vllm_specflash.lab.inspection.answer.start_engine", lambda *_, **__: pytest.fail("it started"))
    (tmp_path / "words.png").write_text("no picture")
    arguments = ["--target", str(image_target), "--prompt", "what?", "--image", str(tmp_path / "words.png")]
    result = CliRunner().invoke(app, ["inspect", *arguments])
    assert result.exit_code == 1
    assert "words.png" in result.output and ": name an image file with --image." in " ".join(result.output.split())


def test_a_machine_that_runs_another_model_runner_is_one_sentence(image_target, monkeypatch):
    monkeypatch.setattr("vllm_specflash.engine.speculative_config.runs_v2", lambda: True)
    result = CliRunner().invoke(app, ["inspect", "--target", str(image_target), "--prompt", "what?"])
    assert result.exit_code == 1
    assert "this machine's engines run on V2: ask on one without a GPU." in " ".join(result.output.split())


PHONE = 360
MEASURE = """
<iframe id="frame" src="{page}" style="width:{width}px;height:640px;border:0"></iframe><pre id="out"></pre>
<script>frame.onload = () => {{
  const shown = frame.contentDocument, root = shown.documentElement;
  out.textContent = JSON.stringify({{
    room: root.clientWidth, needed: root.scrollWidth, broken: [...shown.images].filter(i => !i.naturalWidth).length,
    looks: [...shown.querySelectorAll(".looks .view")].filter(v => v.clientHeight > 40).length,
    small: [...shown.querySelectorAll(".gaze i")].filter(c => Math.min(c.clientHeight, c.clientWidth) < 15).length,
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
    assert measured["broken"] == 0 and measured["looks"] == 8 and measured["small"] == 0
