"""Answers of the target to the training prompts, by vLLM's offline engine: a draft imitates its target."""

import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from vllm_specflash.config import SpecFlashError, first_sentence
from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.capture import EXTENSION, read_captured
from vllm_specflash.train.families import Family, family_of, takes_images
from vllm_specflash.train.features import FeatureCache
from vllm_specflash.train.images import read_image, video_url
from vllm_specflash.train.option import option
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.self_prompts import SelfPromptOptions, SelfPrompts
from vllm_specflash.train.shape import layers_of
from vllm_specflash.train.skipped import Unusable, skip
from vllm_specflash.train.startup import alive, cpu_kv_cache, start_engine
from vllm_specflash.train.target import Sample, target_config, target_name


@dataclass(frozen=True)
class GenerationOptions:
    """How answers are generated."""

    max_tokens: int = option(160, "Longest answer, in tokens.", min=1)
    temperature: float = option(0.7, "Temperature of the sampled share of the answers.", min=0)
    sampled_share: float = option(0.2, "Share of prompts answered by sampling, not greedily.", min=0, max=1)
    batch: int = option(128, "Prompts per shard; what an interruption can lose.", min=1)
    max_model_len: int = option(2048, "Longest prompt and answer together, in tokens.", min=2)
    max_images: int = option(8, "Most images in one prompt.", min=0)
    max_videos: int = option(1, "Most videos in one prompt.", min=0)

    def temperature_of(self, prompt: Prompt) -> float:
        """Decided by the prompt's id alone, so that a resumed run takes the same decisions."""
        return self.temperature if zlib.crc32(prompt.id.encode()) % 1000 < 1000 * self.sampled_share else 0.0


def _with_media(prompt: Prompt) -> list[dict]:
    """Messages in vLLM's chat format, files read. Raises Unusable for one that cannot be read."""
    return [
        m if isinstance(m["content"], str) else {**m, "content": [_with_medium(part) for part in m["content"]]}
        for m in prompt.messages
    ]


def _with_medium(part: dict) -> dict:
    if part["type"] == "image":
        return {"type": "image_pil", "image_pil": read_image(part["path"])}
    if part["type"] == "video":
        return {"type": "video_url", "video_url": {"url": video_url(part["path"])}}
    return part


def _batches(prompts: Iterator[Prompt], size: int) -> Iterator[list[Prompt]]:
    while batch := list(islice(prompts, size)):
        yield batch


def _sample(answer: Answer, prompt_ids: list[int], hidden: Tensor, family: Family) -> tuple[Sample, Tensor]:
    """The teacher-forced sequence of an answer, and its features with a row of zeros for the last token.

    vLLM never runs the last token through the model, and training needs nothing of it.
    """
    ids = torch.tensor([*prompt_ids, *answer.token_ids])
    if len(hidden) < len(ids) - 1:
        raise ValueError("its hidden states are not complete")
    # With asynchronous scheduling vLLM learns a step too late that an answer has ended.
    hidden = hidden[: len(ids) - 1]
    prompt = answer.prompt
    spans = family.spans(ids[: len(prompt_ids)], len(prompt.image_paths) + len(prompt.video_paths))
    sample = Sample(prompt.id, prompt.task, ids, len(prompt_ids), spans, {}, answer.temperature == 0)
    return sample, torch.cat((hidden, hidden.new_zeros(1, hidden.shape[1])))


def _keep_features(llm, answers: list[Answer], outputs: list, cache: FeatureCache, family: Family, skipped: Counter) -> None:
    """Move what the worker captured of a batch into the cache; an answer whose states are not whole is skipped."""
    scratch = cache.folder / "captured.part"
    llm.collective_rpc("write_captured", args=(str(scratch),))
    captured, kept = read_captured(scratch), []
    for answer, output in zip(answers, outputs, strict=True):
        if cache.holds(answer) or output.request_id not in captured:
            continue
        try:
            kept.append(_sample(answer, output.prompt_token_ids, captured[output.request_id], family))
        except ValueError as error:
            skip(skipped, answer.prompt.id, Unusable(f"features: {getattr(error, 'reason', error)}"))
    cache.append([sample for sample, _ in kept], [hidden for _, hidden in kept])
    scratch.unlink()


def _unanswered(prompts: Iterable[Prompt], done: set[str], config, skipped: Counter) -> list[Prompt]:
    """Prompts without an answer yet that the target can be asked."""
    todo, seen, images = [], set(), takes_images(config)
    for prompt in prompts:
        if prompt.id in seen:
            skip(skipped, prompt.id, Unusable("another prompt has the same id"))
        elif prompt.sees and not images:
            skip(skipped, prompt.id, Unusable("the prompt has an image and the target is text-only"))
        elif prompt.id not in done:
            todo.append(prompt)
        seen.add(prompt.id)
    return todo


def _without_unnamed_images(prompts: list[Prompt], image_token: str | None, skipped: Counter) -> Iterator[Prompt]:
    """Without prompts that write the target's own image token where no image is: it would read noise there."""
    for prompt in prompts:
        if image_token and image_token in prompt.text and not prompt.sees:
            skip(skipped, prompt.id, Unusable("the text names an image and the prompt has none", image_token))
        else:
            yield prompt


def _image_token(config, tokenizer) -> str | None:
    token_id = getattr(config, "image_token_id", None)
    return None if token_id is None else tokenizer.convert_ids_to_tokens(token_id)


def _ask(llm, chats: list[tuple[Prompt, list[dict]]], options: GenerationOptions, skipped: Counter) -> list[tuple]:
    """(prompt, vLLM's output) of every prompt that vLLM takes.

    vLLM refuses a list of prompts for one that is too long or has too many images, before it computes anything: the
    list is halved until that one stands alone.
    """
    from vllm import SamplingParams, exceptions

    # A base class of its own in some releases, ValueErrors in others.
    refusals = (ValueError, getattr(exceptions, "VLLMClientError", ValueError))
    # No seed per request: vLLM's CPU runner cannot rewind a seeded generator when a prefill is split.
    parameters = [SamplingParams(temperature=options.temperature_of(p), max_tokens=options.max_tokens) for p, _ in chats]
    try:
        outputs = llm.chat([messages for _, messages in chats], parameters, use_tqdm=False)
    except refusals as error:
        if len(chats) == 1:
            too_long = "longer than" in str(error) or "maximum context length" in str(error)
            reason = "the prompt is longer than --max-model-len" if too_long else "vLLM refuses the prompt"
            skip(skipped, chats[0][0].id, Unusable(reason, first_sentence(error)))
            return []
        half = len(chats) // 2
        return _ask(llm, chats[:half], options, skipped) + _ask(llm, chats[half:], options, skipped)
    return [(prompt, output) for (prompt, _), output in zip(chats, outputs, strict=True)]


def _readable(batch: list[Prompt], skipped: Counter) -> Iterator[tuple[Prompt, list[dict]]]:
    for prompt in batch:
        try:
            yield prompt, _with_media(prompt)
        except Unusable as error:
            skip(skipped, prompt.id, error)


def _in_proportion(given: list[list[Prompt]], written: Iterator[list[Prompt]], num_written: int) -> Iterator[list[Prompt]]:
    """Batches of both kinds: whenever it is interrupted, as large a share of one is done as of the other."""
    taken = 0
    for number, batch in enumerate(written, 1):
        yield batch
        due = min(len(given), len(given) * number // num_written)
        yield from given[taken:due]
        taken = due
    yield from given[taken:]


def generate_answers(
    prompts: Iterable[Prompt],
    target: str,
    out: Path,
    options: GenerationOptions,
    skipped: Counter,
    features: Path | None = None,
    own: SelfPromptOptions = SelfPromptOptions(),
    images: list[Path] = [],
    target_layers: str = "",
) -> None:
    """Answer every prompt that `out` has no answer for yet; what is left out is counted in `skipped` by reason.

    Interrupt it at any moment and start it again: at most one batch is answered twice. With `features`, the target's
    hidden states are kept there on the way, for training (`FeatureCache`), and after them what goes into `target_layers`, numbers
    by commas. The prompts that `own` asks for, about `images` where there are any, are written batch by batch between the others.

    Raises:
        SpecFlashError: there is no such target, features are wanted of a kind of target that cannot be trained for, of layers that it
            lacks or does not hand out, or vLLM does not start, or ends.
    """
    config, folder = target_config(target), AnswerFolder(out)
    layers = layers_of(target_layers, config.get_text_config().num_hidden_layers) or []
    todo, done = _unanswered(prompts, folder.ids(), config, skipped), len(folder.ids())
    family = family_of(config, target) if features is not None or own.self_prompts else None
    writer = SelfPrompts(own, family, (answer.prompt for answer in folder), images) if own.self_prompts else None
    if not todo and not (writer and writer.remaining):
        return
    if features is not None:
        # Of targets that see, what their first layer reads too: compressors pool the projector's outputs.
        if takes_images(config) and 0 not in layers:
            layers.append(0)
        cache = FeatureCache(features, config.get_text_config().hidden_size, target_name(target), layers, exactly=True)
    limits = {"image": options.max_images} if images or any(prompt.image_paths for prompt in todo) else {}
    if any(prompt.video_paths for prompt in todo):
        limits["video"] = options.max_videos
    llm = start_engine(
        out / "vllm.log",
        model=target,
        dtype="bfloat16",
        max_model_len=options.max_model_len,
        max_num_seqs=options.batch,
        # A batch engine runs wide: the compiler's start-up costs more than it gives back.
        enforce_eager=True,
        limit_mm_per_prompt=limits or None,
        # Another one in every run: with the same, a run that goes on would write the turns of the one before again.
        seed=done,
        **cpu_kv_cache(config, options.batch, options.max_model_len),
        **({} if features is None else {"enable_prefix_caching": False, "worker_extension_cls": EXTENSION}),
    )
    if features is not None:
        if not all(llm.collective_rpc("start_capture", args=(cache.kept,))):
            raise SpecFlashError(f"vLLM does not hand out the states of {target}'s layers: leave out --target-layers.")
    todo = list(_without_unnamed_images(todo, _image_token(config, llm.get_tokenizer()), skipped))
    batches = list(_batches(iter(todo), options.batch))
    total = len(batches)
    if writer is not None:
        num_written = -(-writer.remaining // options.batch)
        total += num_written
        batches = _in_proportion(batches, writer.batches(llm, options.batch, skipped), num_written)
    with alive(target):
        for batch in track(batches, description=f"answers of {target}", total=total):
            answered = _ask(llm, list(_readable(batch, skipped)), options, skipped)
            answers = [
                Answer(prompt, list(output.outputs[0].token_ids), output.outputs[0].text, options.temperature_of(prompt))
                for prompt, output in answered
            ]
            if features is not None:
                # Before the answers: what is named in `out` is never generated again.
                _keep_features(llm, answers, [output for _, output in answered], cache, family, skipped)
            folder.append([answer for answer in answers if answer.token_ids])
