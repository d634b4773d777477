"""Predictions follow from measured costs, and measuring them works on tiny engines."""

import json
import re
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft import SpecFlashConfig
from vllm_specflash.lab.bench.chart import Line, line_chart
from vllm_specflash.lab.bench.predict.measure import untrained_draft
from vllm_specflash.lab.bench.predict.model import Costs, Prediction, break_even, predicted, survival_of
from vllm_specflash.lab.bench.predict.report import prediction_plot, sentences

# A memory-bound step: verifying five tokens more costs a tenth.
BOUND = Costs(requests=1, plain=0.010, full=0.011, draft=0.001)
# Each token costs a whole forward more.
BUSY = Costs(requests=64, plain=0.010, full=0.060, draft=0.001)


def test_the_speed_up_is_tokens_over_time():
    assert predicted([1.0] * 5, BOUND) == Prediction(5, pytest.approx(6 * 0.010 / 0.012))
    # Two tokens are accepted, no more: two are drafted.
    assert predicted([1.0, 1.0, 0.0, 0.0, 0.0], BOUND) == Prediction(2, pytest.approx(3 * 0.010 / (0.010 + 0.0004 + 0.001)))


def test_where_nothing_is_gained_nothing_is_drafted():
    assert predicted([0.9, 0.8, 0.7, 0.6, 0.5], BUSY) == Prediction(0, 1.0)
    assert predicted([0.0] * 5, BOUND) == Prediction(0, 1.0)


@pytest.mark.parametrize("tau", [1.0, 1.5, 3.0, 6.0])
def test_survival_adds_up_to_tau(tau):
    shares = survival_of(tau, 5)
    assert 1 + sum(shares) == pytest.approx(tau)
    assert all(later <= earlier for earlier, later in zip(shares, shares[1:]))


@pytest.mark.parametrize("tau", [0.5, 6.1])
def test_a_tau_that_no_draft_has_is_refused(tau):
    with pytest.raises(SpecFlashError, match="A draft of 5 tokens emits 1 to 6 tokens per step"):
        survival_of(tau, 5)


def test_break_even_is_where_the_gain_begins():
    least = break_even(BOUND, 5)
    assert 1.05 < least < 1.3
    assert predicted(survival_of(least + 0.01, 5), BOUND).speed_up > 1
    assert predicted(survival_of(least - 0.01, 5), BOUND).drafted == 0
    assert break_even(BUSY, 5) is None


def test_sentences_say_what_pays():
    first, second, *_ = sentences([BOUND, BUSY], 5)
    assert first.startswith("batch 1: a plain step takes 10.0 ms, one that verifies 5 drafted tokens per request 11.0 ms, drafting them 1.0 ms")
    assert "drafting pays from a tau of 1." in first and second.endswith("no draft of this length pays")


def test_the_plot_is_an_svg_with_a_line_per_batch():
    root = ElementTree.fromstring(prediction_plot([BOUND, BUSY], 5, own=[0.5, 0.2, 0.1, 0.0, 0.0]))
    space = {"s": "http://www.w3.org/2000/svg"}
    assert len(root.findall("s:polyline", space)) == 2
    # One dot a tau of the table, one diamond a batch for the draft's own.
    assert len(root.findall("s:circle", space)) == 2 * 7
    assert len([p for p in root.findall("s:path", space) if p.get("fill") == "#222222"]) == 2


def test_higher_values_are_drawn_higher():
    root = ElementTree.fromstring(line_chart([1, 8], [Line("a", [4.0, 2.0])], "batch", "speed-up", even=True))
    first, second = root.findall("{http://www.w3.org/2000/svg}circle")
    assert float(first.get("cy")) < float(second.get("cy")) and float(first.get("cx")) < float(second.get("cx"))


def test_an_untrained_draft_has_the_default_shape(image_target, tmp_path):
    assert untrained_draft(str(image_target), tmp_path) == 5
    config = SpecFlashConfig.from_pretrained(tmp_path)
    assert (config.hidden_size, config.num_latents, config.target_name) == (128, 16, image_target.name)


def test_the_command_measures_and_predicts(text_target, prompts_folder, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"hello {i}", "task": "chat"}) + "\n" for i in range(4)))
    out, plot = tmp_path / "predict.json", tmp_path / "predict.svg"
    arguments = [
        "predict", text_target, "--prompts", prompts, "--batch-size", 1, "--batch-size", 2, "--max-tokens", 12, "--max-model-len", 128,
        "--dtype", "float32", "--kv-cache-gib", 0.05, "--enforce-eager", "--out", out, "--plot", plot,
    ]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    text = re.sub(r"\s+", " ", result.output)
    assert result.exit_code == 0, text
    assert "predicted speed-up of decoding, drafts of up to 5 tokens" in text and "batch 2: a plain step takes" in text
    record = json.loads(out.read_text())
    assert [cost["requests"] for cost in record["costs"]] == [1, 2]
    assert all(cost["plain"] > 0 and cost["full"] > 0 and cost["draft"] > 0 for cost in record["costs"])
    ElementTree.parse(plot)


def test_data_without_a_draft_is_refused(text_target, tmp_path):
    result = CliRunner().invoke(app, ["predict", str(text_target), "--data", str(tmp_path)])
    assert result.exit_code == 1 and "name it with --draft" in result.output
