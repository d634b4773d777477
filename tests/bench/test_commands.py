import re

import pytest
from typer.testing import CliRunner

from vllm_specflash.cli import app
from vllm_specflash.lab.bench.prompts import load_task


def invoke(*arguments: str):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize("command", ["bench", "identity", "demo", "doctor"])
def test_help(command):
    code, text = invoke(command, "--help")
    assert code == 0 and "Usage" in text


def test_doctor_on_a_pair_that_fits(image_target):
    code, text = invoke("doctor", image_target)
    assert code == 0, text
    assert "Ready." in text and "LlavaForConditionalGeneration" in text
    assert "the draft's KV adds 50.0%" in text


def test_doctor_on_a_target_without_draft(image_target, tmp_path):
    (tmp_path / "bare").symlink_to(image_target)
    code, text = invoke("doctor", image_target, "--draft", tmp_path / "missing")
    assert code == 1
    assert "No SpecFLASH draft at" in text and "This will not work" in text


def test_doctor_on_a_draft_for_another_target(image_target, text_target, tmp_path):
    from drafts import draft_for

    other = draft_for(text_target, tmp_path / "other", target_vocab_size=50)
    code, text = invoke("doctor", image_target, "--draft", other)
    assert code == 1
    assert "is for another target" in text


def test_a_wrong_method_or_task_is_one_sentence(image_target, prompts_folder, tmp_path):
    out = tmp_path / "bench.json"
    code, text = invoke("bench", "--target", image_target, "--method", "medusa", "--out", out)
    assert code == 1 and "There is no method 'medusa'" in text
    with pytest.raises(FileNotFoundError, match="its tasks are pictures, words"):
        load_task("music", prompts_folder)


def test_identity_of_a_tiny_target(image_target, prompts_folder, tmp_path):
    out = tmp_path / "identity.json"
    code, text = invoke(
        "identity", "--target", image_target, "--task", "words", "--task", "pictures", "--data", prompts_folder,
        "--prompts", 5, "--max-tokens", 16, "--enforce-eager", "--kv-cache-gib", 0.05, "--out", out,
    )  # fmt: skip
    assert code == 0, text
    assert "5 of 5 outputs identical" in text
    assert out.is_file()
