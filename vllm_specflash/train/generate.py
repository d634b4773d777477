"""Answers of the target to the training prompts, by vLLM's offline engine: a draft imitates its target."""

import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor
from transformers import AutoConfig

from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.capture import EXTENSION, read_captured
from vllm_specflash.train.families import FAMILIES, Family
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.prompts import Prompt, read_prompts
from vllm_specflash.train.target import Sample, target_name


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are generated."""

    max_tokens: int = field(default=160, metadata={"help": "Longest answer, in tokens."})
    temperature: float = field(default=0.7, metadata={"help": "Temperature of the sampled share of the answers."})
    sampled_share: float = field(default=0.2, metadata={"help": "Share of prompts answered by sampling, not greedily."})
    batch: int = field(default=128, metadata={"help": "Prompts per shard; what an interruption can lose."})
    max_model_len: int = field(default=2048, metadata={"help": "Longest prompt and answer together, in tokens."})
    max_images: int = field(default=8, metadata={"help": "Most images in one prompt."})

    def temperature_of(self, prompt: Prompt) -> float:
        """Decided by the prompt's id alone, so that a resumed run takes the same decisions."""
        return self.temperature if zlib.crc32(prompt.id.encode()) % 1000 < 1000 * self.sampled_share else 0.0


def _with_images(prompt: Prompt) -> list[dict]:
    """Messages in vLLM's chat format, images loaded."""
    from PIL import Image

    def part(part: dict) -> dict:
        return part if part["type"] == "text" else {"type": "image_pil", "image_pil": Image.open(part["path"]).convert("RGB")}

    return [
        m if isinstance(m["content"], str) else {**m, "content": [part(p) for p in m["content"]]} for m in prompt.messages
    ]


def _batches(prompts: Iterator[Prompt], size: int) -> Iterator[list[Prompt]]:
    while batch := list(islice(prompts, size)):
        yield batch


def _sample(answer: Answer, prompt_ids: list[int], hidden: Tensor, family: Family) -> tuple[Sample, Tensor]:
    """The teacher-forced sequence of an answer, and its features with a row of zeros for the last token.

    vLLM never runs the last token through the model, and training needs nothing of it.
    """
    ids = torch.tensor([*prompt_ids, *answer.token_ids])
    if len(hidden) != len(ids) - 1:
        raise ValueError("its hidden states are not complete")
    prompt = answer.prompt
    spans = family.spans(ids[: len(prompt_ids)], len(prompt.image_paths))
    sample = Sample(prompt.id, prompt.task, ids, len(prompt_ids), spans, {}, answer.temperature == 0)
    return sample, torch.cat((hidden, hidden.new_zeros(1, hidden.shape[1])))


def _keep_features(llm, answers: list[Answer], outputs: list, cache: FeatureCache, family: Family, skipped: Counter) -> None:
    """Move what the worker captured of a batch into the cache; an answer whose states are not whole is skipped."""
    scratch = cache.folder / "captured.part"
    llm.collective_rpc("write_captured", args=(str(scratch),))
    captured, kept = read_captured(scratch), []
    for answer, output in zip(answers, outputs, strict=True):
        if answer.prompt.id in cache or output.request_id not in captured:
            continue
        try:
            kept.append(_sample(answer, output.prompt_token_ids, captured[output.request_id], family))
        except ValueError as error:
            skipped[f"features: {error}"] += 1
    cache.append([sample for sample, _ in kept], [hidden for _, hidden in kept])
    scratch.unlink()


def generate_answers(
    prompts: Path, target: str, out: Path, options: GenerationOptions, features: Path | None = None
) -> Counter:
    """Answer every prompt of a jsonl file that `out` has no answer for yet; returns the skipped prompts by reason.

    Interrupt it at any moment and start it again: at most one batch is answered twice. With `features`, the target's
    hidden states are kept there on the way, for training (`FeatureCache`).
    """
    from vllm import LLM, SamplingParams

    folder, skipped = AnswerFolder(out), Counter()
    done = folder.ids()
    todo = [prompt for prompt in read_prompts(prompts, skipped) if prompt.id not in done]
    if not todo:
        return skipped
    images = any(prompt.image_paths for prompt in todo)
    llm = LLM(
        target,
        dtype="bfloat16",
        max_model_len=options.max_model_len,
        max_num_seqs=options.batch,
        # A batch engine runs wide: the compiler's start-up costs more than it gives back.
        enforce_eager=True,
        limit_mm_per_prompt={"image": options.max_images} if images else None,
        **({} if features is None else {"enable_prefix_caching": False, "worker_extension_cls": EXTENSION}),
    )
    if features is not None:
        config = AutoConfig.from_pretrained(target)
        family = FAMILIES[config.model_type](config, target)
        cache = FeatureCache(features, config.get_text_config().hidden_size, target_name(target))
        llm.collective_rpc("start_capture")
    for batch in track(list(_batches(iter(todo), options.batch)), description=f"answers of {target}"):
        chats = []
        for prompt in batch:
            try:
                chats.append((prompt, _with_images(prompt)))
            except OSError:
                skipped["an image could not be read"] += 1
        # No seed per request: vLLM's CPU runner cannot rewind a seeded generator when a prefill is split.
        parameters = [SamplingParams(temperature=options.temperature_of(p), max_tokens=options.max_tokens) for p, _ in chats]
        outputs = llm.chat([messages for _, messages in chats], parameters, use_tqdm=False)
        answers = [
            Answer(prompt, list(output.outputs[0].token_ids), output.outputs[0].text, parameter.temperature)
            for (prompt, _), output, parameter in zip(chats, outputs, parameters, strict=True)
        ]
        if features is not None:
            # Before the answers: what is named in `out` is never generated again.
            _keep_features(llm, answers, outputs, cache, family, skipped)
        folder.append([answer for answer in answers if answer.token_ids])
    return skipped
