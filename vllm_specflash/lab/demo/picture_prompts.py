"""Prompts about pictures as files, for `specflash data`: a jsonl and a folder of PNGs beside it.

    python -m vllm_specflash.lab.demo.picture_prompts --out prompts --count 3000
"""

import argparse
import json
from pathlib import Path

from rich.progress import track

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo.prompts import picture_prompts


def write_prompts(out: Path, count: int, seed: int = 0, **shares: float) -> Path:
    """Write `count` prompts of `picture_prompts` into folder `out`; returns the jsonl's path. Continues where it was."""
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for i, prompt in enumerate(track(picture_prompts(count, seed, **shares), total=count, description="pictures")):
        names = []
        for j, image in enumerate(prompt["images"]):
            names.append(f"images/{seed}-{i:05d}-{j}.png")
            if not (out / names[-1]).exists():
                image.save(out / names[-1])
        record = {"id": f"{prompt['task']}-{seed}-{i:05d}", "task": prompt["task"], "prompt": prompt["prompt"]}
        lines.append(json.dumps({**record, "images": names}) + "\n")
    path = out / f"prompts-{seed}.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clips", type=float, default=0.3, help="share of prompts about clips")
    parser.add_argument("--detailed", type=float, default=0.75, help="share of prompts that ask for a long answer")
    parser.add_argument("--sheets", type=float, default=0.0, help="share of prompts that ask to read a sheet out")
    options = parser.parse_args()
    shares = {"clips": options.clips, "detailed": options.detailed, "sheets": options.sheets}
    print(write_prompts(options.out, options.count, options.seed, **shares))


if __name__ == "__main__":
    main()
