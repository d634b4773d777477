"""Checkpoint folders of the demo targets, built on first use: `python -m vllm_specflash.demo.assemble`."""

import os
from pathlib import Path

from vllm_specflash.demo.cache import build_once, cache_root
from vllm_specflash.demo.smollm2 import load_language_model, load_tokenizer


def text_target(cache_dir: str | os.PathLike | None = None) -> Path:
    """Folder with plain SmolLM2-135M-Instruct: bf16 safetensors, tokenizer, chat template (20 s the first time)."""

    def build(folder: Path) -> None:
        load_language_model().save_pretrained(folder)
        load_tokenizer().save_pretrained(folder)

    return build_once(cache_root(cache_dir) / "smollm2-135m-instruct", build)


if __name__ == "__main__":
    print(text_target())
