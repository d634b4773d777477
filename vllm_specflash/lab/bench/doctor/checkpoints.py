"""A target and a draft as they lie on disk."""

import json
import struct
from pathlib import Path

from vllm_specflash.config import SpecFlashOptions, as_path, find_draft
from vllm_specflash.lab.bench.doctor.finding import FAULT, OK, Finding
from vllm_specflash.lab.bench.doctor.hub import PATH, unreachable

OTHER_WEIGHTS = (".bin", ".pt", ".pth", ".gguf")
COPY_AGAIN = "Copy or download it again."


def examine_target(target: str) -> Finding:
    reason = unreachable(target) or damage(as_path(target))
    if reason:
        return Finding("target", FAULT, reason, "Name a folder or a hub id that vLLM serves by itself.")
    from transformers import AutoTokenizer
    from vllm.engine.arg_utils import EngineArgs

    config = EngineArgs(model=target).create_model_config()
    try:
        AutoTokenizer.from_pretrained(config.tokenizer, trust_remote_code=config.trust_remote_code)
    except Exception:
        return Finding("target", FAULT, f"{target} has no tokenizer that transformers can read", COPY_AGAIN)
    architecture = ", ".join(config.architectures)
    kind = "text and pictures" if config.is_multimodal_model else "text only"
    return Finding(
        "target", OK, f"{architecture}, {kind}, hidden size {config.get_hidden_size()}, {config.get_vocab_size():,} tokens"
    )


def examine_draft(target: str, draft: str | None) -> Finding:
    # About a path, find_draft has its own words.
    is_path = draft is not None and draft.startswith(PATH)
    reason = None if is_path else unreachable(draft or target, "config.json" if draft else "specflash/config.json")
    if reason:
        return Finding("draft", FAULT, reason, "Name the folder that `specflash train` wrote, or a hub id, with --draft.")
    from vllm_specflash.engine.speculative_config import load_draft_config

    folder = find_draft(SpecFlashOptions(model=draft), target)
    config = load_draft_config(folder)
    if reason := damage(folder):
        return Finding("draft", FAULT, reason, COPY_AGAIN)
    sees = "no compression" if config.pooling is None else str(config.pooling)
    return Finding(
        "draft", OK,
        f"{folder}: {config.semi_ar_width} tokens x {config.num_rounds} rounds, {sees}, "
        f"{config.num_draft_tokens:,} tokens, {weights_bytes(folder) / 2**20:.1f} MiB, for {config.target_name or 'any target'}",
    )  # fmt: skip


def weights_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def damage(folder: Path) -> str | None:
    """What is missing of a local checkpoint, or None; None also for one that is not local.

    Only the headers of safetensors files are read: they say how long the file should be.
    """
    if not folder.is_dir():
        return None
    if not (folder / "config.json").is_file():
        return f"{folder} has no config.json"
    files = sorted(folder.glob("*.safetensors"))
    if not files and not any(file.suffix in OTHER_WEIGHTS for file in folder.iterdir()):
        return f"{folder} holds no weights"
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(wanted - {file.name for file in files}):
            return f"{folder} lacks {missing[0]}, one of {len(wanted)} files of weights"
    return next((reason for file in files if (reason := _cut_short(file))), None)


def _cut_short(file: Path) -> str | None:
    """A safetensors file is 8 bytes with the header's length, the header in JSON, and the tensors."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            # The rest of the file is all that a header can be.
            header = json.loads(opened.read(min(length, size)))
        wanted = 8 + length + max((one["data_offsets"][1] for name, one in header.items() if name != "__metadata__"), default=0)
    except (ValueError, struct.error, KeyError, TypeError, AttributeError):
        return f"{file} is no safetensors file"
    return None if size >= wanted else f"{file} was cut short: it has {size:,} of {wanted:,} bytes"
