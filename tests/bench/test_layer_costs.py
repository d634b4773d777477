"""The commands that time the target's trees and the draft's attention, on shapes too small to mean anything."""

import json

from engines import noise_image
from safetensors.torch import load_file
from typer.testing import CliRunner
from vllm_specflash.draft import SpecFlashConfig, core
from vllm_specflash.lab.bench import tree_attention, visual_context
from vllm_specflash.lab.bench.targets import Target


def test_tree_attention_times_chains_and_trees_with_side_paths(tmp_path):
    tree_attention.main(nodes=8, repeats=10, out=tmp_path / "found.json")
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert [(one["requests"], one["context"]) for one in figures] == [(n, c) for n in (1, 8) for c in (256, 512, 1024, 2048)]
    assert all(one["side_paths"] > 0 and one["chain_us"] > 0 and one["tree_us"] > 0 for one in figures)


def test_a_draft_without_its_compressor_has_all_other_weights(image_target, tmp_path):
    trained = image_target / "specflash"
    plain = visual_context.without_compression(trained, tmp_path / "plain")
    assert SpecFlashConfig.from_pretrained(plain).latents_per_span is None
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, plain))
    assert all(name.startswith("compressor.") or after[name].equal(value) for name, value in before.items())


def test_rows_and_times_of_pictures_with_compression_and_without(image_target, tmp_path):
    pictures, attend = [noise_image(seed) for seed in (1, 2)], core.draft_attention
    plain = visual_context.without_compression(image_target / "specflash", tmp_path / "plain")
    found = []
    for draft in (image_target / "specflash", plain):
        engine = visual_context.Engine(Target("tiny", str(image_target), str(draft), ()), 2, 12)
        try:
            found.append(engine.measure(pictures, 1))
        finally:
            engine.close()
    assert core.draft_attention is attend
    assert all(0 < one["attention_ms"] < one["draft_ms"] < one["whole_ms"] for one in found)
    # Sixteen visual tokens a picture become four latents.
    assert found[1]["attended_rows"] - found[0]["attended_rows"] == 2 * (16 - 4)
