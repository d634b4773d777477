"""The commands that time the target's trees and the draft's attention, on shapes too small to mean anything."""

import json

import torch
from engines import noise_image
from safetensors.torch import load_file
from vllm_specflash.draft import SpecFlashConfig, core
from vllm_specflash.lab.bench import attention_rows, tree_attention, visual_context
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.triton_kernels.draft_attention import target_positions


def test_tree_attention_times_chains_and_trees_with_side_paths(tmp_path):
    tree_attention.main(nodes=8, repeats=10, out=tmp_path / "found.json")
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert [(one["requests"], one["context"]) for one in figures] == [(n, c) for n in (1, 8) for c in (256, 512, 1024, 2048)]
    assert all(one["side_paths"] > 0 and one["chain_us"] > 0 and one["tree_us"] > 0 for one in figures)


def test_rows_behind_a_pictures_latents_are_the_ones_left_out(tmp_path):
    # Two pictures of eight positions, three latents each: positions 3 to 7 and 13 to 17 are hidden.
    spans = attention_rows.span_table(2, 8, 3)
    seen = target_positions(torch.arange(attention_rows.rows_seen(2, 3), dtype=torch.int32)[None], spans)[0].tolist()
    assert seen[:12] == [0, 1, 2, 8, 9, 10, 11, 12, 18, 19, 20, 21]
    assert seen[-1] == attention_rows.rows_seen(2, 8) - 1
    attention_rows.main(out=tmp_path / "found.json", tokens=[128], latents=16, rounds=1)
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["visual_tokens"] for row in rows] == [128, 576, 1024]
    assert all(large - small == row["visual_tokens"] - 16 * row["pictures"] for row in rows for small, large in [row["rows"]])
    assert all(ms > 0 for row in rows for ms in row["ms"])


def test_a_draft_without_its_compressor_has_all_other_weights(image_target, tmp_path):
    trained = image_target / "specflash"
    plain = visual_context.without_compression(trained, tmp_path / "plain")
    assert SpecFlashConfig.from_pretrained(plain).pooling is None
    before, after = (load_file(folder / "model.safetensors") for folder in (trained, plain))
    assert all(name.startswith("compressor.") or after[name].equal(value) for name, value in before.items())


def test_rows_and_times_of_pictures_with_compression_and_without(image_target, tmp_path):
    pictures, attend = [noise_image(seed) for seed in (1, 2)], core.draft_attention
    plain = visual_context.without_compression(image_target / "specflash", tmp_path / "plain")
    found = []
    for draft in (image_target / "specflash", plain):
        engine = visual_context.Engine(Target("tiny", str(image_target), str(draft), ()), 2, 12)
        try:
            found.append({**engine.measure(pictures, 1), **engine.ask(pictures, 12)})
        finally:
            engine.close()
    assert core.draft_attention is attend
    # Of one answer: differences of two, which `measure` has, may be anything on a busy machine.
    assert all(0 < one["attention"] < one["draft"] < one["whole"] and one["steps"] > 1 for one in found)
    # Sixteen visual tokens a picture become four latents.
    assert found[1]["attended_rows"] - found[0]["attended_rows"] == 2 * (16 - 4)
