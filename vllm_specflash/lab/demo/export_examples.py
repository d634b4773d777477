"""Held-out pictures, clips and sheets as files: `python -m vllm_specflash.lab.demo.export_examples examples/data`.

Writes pictures/*.png and pictures.jsonl, one JSON object a line: `id`, `task` ("scenes", "clips" or "sheets"), `images` (paths
relative to the folder, frames or pages in order), `prompt` and `reference` (what a perfect target would answer, at least 64 tokens).
"""

import argparse
import json
from pathlib import Path

import numpy as np
from PIL import Image

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo import clip_language, scene_language, sheet_language
from vllm_specflash.lab.demo.clips import sample_clip
from vllm_specflash.lab.demo.scenes import sample_scene
from vllm_specflash.lab.demo.sheets import sample_sheet
from vllm_specflash.lab.demo.smollm2 import load_tokenizer
from vllm_specflash.lab.demo.split import sample_in

SCENES, CLIPS, SHEETS, MIN_TOKENS = 24, 8, 8, 64


@one_sentence_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    tokenizer = load_tokenizer()
    rng = np.random.default_rng(2024)
    lines = []
    for task, count, requests, sample in (
        ("scenes", SCENES, scene_language.DETAILED, sample_scene),
        ("clips", CLIPS, clip_language.DETAILED, lambda r: sample_clip(r, (8,))),
        ("sheets", SHEETS, sheet_language.READINGS, lambda r: sample_sheet(r, (3,))),
    ):
        for i in range(count):
            request, answer = list(requests.items())[i % len(requests)]
            drawn = sample_in("heldout", sample, rng)
            while len(tokenizer(answer(drawn)).input_ids) < MIN_TOKENS:
                drawn = sample_in("heldout", sample, rng)
            name = f"{task.removesuffix('s')}-{i:02d}"
            images = []
            for frame, picture in enumerate(drawn.pictures()):
                images.append(f"pictures/{name}.png" if task == "scenes" else f"pictures/{name}-{frame}.png")
                Image.fromarray(picture).save(folder / images[-1], optimize=True)
            lines.append({"id": name, "task": task, "images": images, "prompt": request, "reference": answer(drawn)})
    (folder / "pictures.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
