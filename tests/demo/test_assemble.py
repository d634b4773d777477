"""The assembled checkpoint: parts put together as they were trained."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.cache import build_once
from vllm_specflash.lab.checkout import ROOT, SHEET_READER, WEIGHTS
from vllm_specflash.lab.demo.assemble import demo_name, demo_target
from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID
from vllm_specflash.lab.demo.evaluate import chat
from vllm_specflash.lab.demo.lora import LoraLinear, add_lora, merge_lora
from vllm_specflash.lab.demo.parts import LORA, PROJECTOR, TOWER, part
from vllm_specflash.lab.demo.projector import Projector
from vllm_specflash.lab.demo.tower import build_tower, patch_features, pixels

EXAMPLES = Path(__file__).parents[2] / "examples" / "data"


@pytest.fixture(scope="module")
def target():
    return demo_target()


@pytest.fixture(scope="module")
def pictures():
    """uint8 [4, 96, 96, 3]: shipped held-out scenes."""
    files = sorted((EXAMPLES / "pictures").glob("scene-*.png"))[:4]
    return np.stack([np.asarray(Image.open(file)) for file in files])


def test_shipped_weights_are_small():
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*.safetensors")) <= 20e6


def test_processor_scales_pixels_as_training_did(target, pictures):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(target)
    given = processor.image_processor([Image.fromarray(p) for p in pictures], return_tensors="pt").pixel_values
    torch.testing.assert_close(given, pixels(pictures), atol=1e-5, rtol=0)


def test_prompt_is_laid_out_as_in_training(target, pictures):
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(target)
    text = processor.apply_chat_template(chat("What is this?", 2), add_generation_prompt=True)
    ids = processor(text=text, images=[Image.fromarray(p) for p in pictures[:2]], return_tensors="pt").input_ids[0]
    encode = processor.tokenizer.encode
    picture = [IMAGE_TOKEN_ID] * 64 + encode("\n")
    asked = encode("What is this?<|im_end|>\n<|im_start|>assistant\n")
    assert ids.tolist() == encode("<|im_start|>user\n") + 2 * picture + asked


def test_llava_sees_the_features_the_projector_was_trained_on(target, pictures):
    from transformers import LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(target, dtype=torch.float32)
    tower, projector = build_tower().eval(), Projector()
    tower.load_state_dict(load_file(WEIGHTS / TOWER))
    projector.load_state_dict(load_file(WEIGHTS / PROJECTOR))
    with torch.inference_mode():
        wanted = projector(patch_features(tower, pixels(pictures)))
        given = model.get_image_features(pixels(pictures)).pooler_output
    torch.testing.assert_close(torch.stack(list(given)), wanted, atol=2e-2, rtol=2e-2)


def test_merged_lora_computes_what_the_adapter_did():
    torch.manual_seed(0)
    model = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"q_proj": torch.nn.Linear(12, 8, bias=False)})})
    plain = torch.nn.Linear(12, 8, bias=False)
    plain.load_state_dict(model["block"]["q_proj"].state_dict())
    lora = add_lora(model)
    assert isinstance(model["block"]["q_proj"], LoraLinear)
    torch.nn.init.normal_(lora["block.q_proj.lora_b"])
    x = torch.randn(3, 12)
    merged = torch.nn.ModuleDict({"block": torch.nn.ModuleDict({"q_proj": plain})})
    merge_lora(merged, {name: p.detach() for name, p in lora.items()})
    torch.testing.assert_close(merged["block"]["q_proj"](x), model["block"]["q_proj"](x))


def test_a_build_that_fails_leaves_nothing_behind(tmp_path):
    def build(folder):
        (folder / "half").touch()
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError):
        build_once(tmp_path / "model", build)
    assert not list(tmp_path.iterdir())


def test_shipped_examples_are_complete():
    lines = [json.loads(line) for line in (EXAMPLES / "pictures.jsonl").read_text().splitlines()]
    assert {line["task"] for line in lines} == {"scenes", "clips"}
    assert all((EXAMPLES / image).is_file() for line in lines for image in line["images"])
    assert all(len(line["images"]) == (8 if line["task"] == "clips" else 1) for line in lines)


@pytest.mark.parametrize("weights, draft", [(WEIGHTS, "scenes-specflash"), (SHEET_READER, "specflash")], ids=["scenes", "sheets"])
def test_a_shipped_draft_is_of_the_weights_that_are_shipped(weights, draft):
    """Else it is refused when it is served: new weights need a new draft."""
    assert json.loads((weights / draft / "config.json").read_text())["target_name"] == demo_name(weights)


def test_the_target_that_reads_sheets_has_the_shipped_tower_and_what_else_it_needs_of_its_own():
    assert part(SHEET_READER, TOWER) == WEIGHTS / TOWER
    assert [part(SHEET_READER, name).parent for name in (PROJECTOR, LORA)] == [SHEET_READER] * 2


def test_weights_that_are_not_there_are_not_the_shipped_ones(tmp_path):
    for missing, name in ((tmp_path / "nowhere", TOWER), (tmp_path, LORA)):
        with pytest.raises(SpecFlashError, match="There is no "):
            part(missing, name)


def test_what_is_said_of_the_target_that_reads_sheets_was_counted():
    found = json.loads((ROOT / "docs" / "results" / "sheet-reader.json").read_text())
    assert found["target"] == demo_name(SHEET_READER)
    counted = [("items_right", "items", 0.85), ("named", "objects", 0.9), ("placed", "named", 0.85), ("clips_right", "clips", 0.75)]
    # The second table, after the one of the shipped target.
    said = re.findall(r"\| ([\d.]+)% \| (\d+)% \|", (WEIGHTS / "README.md").read_text())[3:7]
    assert said == [(f"{found[right] / found[of]:.1%}"[:-1], f"{bar:.0%}"[:-1]) for right, of, bar in counted]
    assert all(found[right] >= bar * found[of] for right, of, bar in counted)


def test_what_is_said_of_the_chat_drafts_training_was_measured():
    def taus(record: dict) -> str:
        return " and ".join(f"{record['simulated'][task]['tau']:.2f}" for task in ("self", "chat"))

    text, results = (WEIGHTS / "README.md").read_text(), ROOT / "docs" / "results"
    made = json.loads((WEIGHTS / "smollm2-135m-specflash" / "provenance.json").read_text())
    counts = [11_052, made["started_from"]["answers"], made["answers"]]
    assert f"{', then '.join(f'{count:,}' for count in counts)}: {sum(counts):,} in all" in text
    before = json.loads((results / "eval-chat-before.json").read_text())
    after = json.loads((results / "trees-simulated.json").read_text())["chat, chains"]
    assert before["answers"] == after["answers"] == 300
    assert f"On the same 300 held-out answers D had {taus(before)} where this one has {taus(after)}" in text
    assert taus(after).replace(" and", " own prompts,") + " templates (of 6)" in text
