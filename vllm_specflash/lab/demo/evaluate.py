"""What the demo target sees, measured on held-out pictures: `python -m vllm_specflash.lab.demo.evaluate`.

200 scenes, each with one of the caption or description requests: how many of the objects shown are named, and how
many of the named ones are put where they are. 200 clips of 4 to 8 frames: how many answers have the right objects and all
their directions. 200 sheets of 2 to 4 pages: how many of their items are the right name at the right turn. Contents are
disjoint from everything trained on (see split.py). Runs the assembled checkpoint through its own processor, in transformers
or with `--engine vllm`.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.checkout import WEIGHTS
from vllm_specflash.lab.demo import clip_language, scene_language, sheet_language
from vllm_specflash.lab.demo.assemble import demo_name, demo_target
from vllm_specflash.lab.demo.clips import Clip, sample_clip
from vllm_specflash.lab.demo.pictograms import NAMES
from vllm_specflash.lab.demo.scenes import Scene, sample_scene
from vllm_specflash.lab.demo.sheets import Sheet, sample_sheet
from vllm_specflash.lab.demo.split import sample_in
from vllm_specflash.lab.demo.words import PLACES
from vllm_specflash.train.provenance import write_provenance

SCENE_REQUESTS = (
    "What is in this picture?",
    "Describe the image.",
    "What do you see, and where?",
    "List the objects with their places.",
    "Describe this picture in detail.",
    "Explain carefully what you see.",
    "Tell a child what is in this picture.",
    "Describe the image starting from the bottom.",
)
CLIP_REQUESTS = (
    "What happens in this clip?",
    "Write one sentence about the video.",
    "Describe this clip in detail.",
    "Tell the clip as a little story.",
    "Report carefully what you watched.",
)
SHEET_REQUESTS = tuple(sheet_language.READINGS)
MAX_ANSWER = 256
# "center" last: it is a word inside "top center" and "bottom center".
_PLACE = re.compile("|".join(sorted(PLACES, key=len, reverse=True)))
_NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
_DIRECTION = re.compile(r"\bto the (right|left)\b|\b(up|down)\b")


def places_said(answer: str) -> dict[str, str | None]:
    """Each object that an answer names, with the place it gives for it (None if it gives none).

    Within a sentence or line objects and places are paired in order; the first sentence that places an object counts.
    """
    said: dict[str, str | None] = {}
    for sentence in re.split(r"[.\n!?]+(?=\s|$)|(?<=\?) ", _join_questions(answer.lower())):
        names, places = _NAME.findall(sentence), _PLACE.findall(sentence)
        for i, name in enumerate(names):
            place = places[i] if len(places) == len(names) else None
            said[name] = said.get(name) or place
    return said


def _join_questions(answer: str) -> str:
    """ "Can you find the dog? It is at the top left." is one statement."""
    return re.sub(r"\? (it is|they are) ", r" \1 ", answer)


def score_scene(scene: Scene, answer: str) -> tuple[int, int, int]:
    """Objects shown, of those named, of those placed right."""
    said = places_said(answer)
    named = [(name, cell) for name, cell in scene.objects if name in said]
    return len(scene.objects), len(named), sum(said[name] == PLACES[cell] for name, cell in named)


def score_clip(clip: Clip, answer: str) -> bool:
    """Whether exactly the clip's objects are named and each mover's direction follows its name."""
    text = answer.lower()
    if set(_NAME.findall(text)) != {m.name for m in clip.movers}:
        return False
    directions: dict[str, str] = {}
    for piece in re.split(r"[.\n:]+(?=\s|$)|, while | and (?=an? |some )", text):
        names, ways = _NAME.findall(piece), _DIRECTION.findall(piece)
        if names and ways:
            directions.setdefault(names[0], next(filter(None, ways[0])))
        last = names[0] if names else None
        if not names and ways and last:
            directions.setdefault(last, next(filter(None, ways[0])))
    return all(directions.get(m.name) == m.direction for m in clip.movers)


def heldout_scenes(count: int = 200) -> Iterator[tuple[Scene, str]]:
    """Scenes with their requests, the same ones every time."""
    rng = np.random.default_rng(200)
    for i in range(count):
        yield sample_in("heldout", sample_scene, rng), SCENE_REQUESTS[i % len(SCENE_REQUESTS)]


def heldout_clips(count: int = 64) -> Iterator[tuple[Clip, str]]:
    rng = np.random.default_rng(64)
    for i in range(count):
        yield sample_in("heldout", sample_clip, rng), CLIP_REQUESTS[i % len(CLIP_REQUESTS)]


def heldout_sheets(count: int = 200) -> Iterator[tuple[Sheet, str]]:
    rng = np.random.default_rng(27)
    for i in range(count):
        yield sample_in("heldout", sample_sheet, rng), SHEET_REQUESTS[i % len(SHEET_REQUESTS)]


def reference(shown: Scene | Clip | Sheet, request: str) -> str:
    """What a perfect target answers."""
    if isinstance(shown, Sheet):
        return sheet_language.READINGS[request](shown)
    language = scene_language if isinstance(shown, Scene) else clip_language
    return {**language.CAPTIONS, **language.DETAILED}[request](shown)


def chat(request: str, pictures: int) -> list[dict]:
    return [{"role": "user", "content": [*[{"type": "image"}] * pictures, {"type": "text", "text": request}]}]


def answer_with_transformers(folder: Path, asked: list[tuple[Scene | Clip | Sheet, str]], batch: int = 8) -> Iterator[str]:
    import torch
    from PIL import Image
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    processor = AutoProcessor.from_pretrained(folder)
    processor.tokenizer.padding_side = "left"
    model = LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.bfloat16).eval()
    for start in range(0, len(asked), batch):
        texts, images = [], []
        for shown, request in asked[start : start + batch]:
            frames = [Image.fromarray(picture) for picture in shown.pictures()]
            texts.append(processor.apply_chat_template(chat(request, len(frames)), add_generation_prompt=True))
            images.append(frames)
        inputs = processor(text=texts, images=images, padding=True, return_tensors="pt").to(torch.bfloat16)
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=MAX_ANSWER, do_sample=False)
        yield from processor.batch_decode(output[:, inputs.input_ids.shape[1] :], skip_special_tokens=True)


def answer_with_vllm(folder: Path, asked: list[tuple[Scene | Clip | Sheet, str]]) -> Iterator[str]:
    from PIL import Image
    from vllm import LLM, SamplingParams

    conversations = []
    for shown, request in asked:
        content = [{"type": "image_pil", "image_pil": Image.fromarray(picture)} for picture in shown.pictures()]
        conversations.append([{"role": "user", "content": [*content, {"type": "text", "text": request}]}])
    llm = LLM(str(folder), max_model_len=1024, max_num_seqs=32, limit_mm_per_prompt={"image": 8}, enforce_eager=True,
              kv_cache_memory_bytes=1 << 30)
    for output in llm.chat(conversations, SamplingParams(temperature=0, max_tokens=MAX_ANSWER)):
        yield output.outputs[0].text


@one_sentence_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", choices=["transformers", "vllm"], default="transformers")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the target's weights; default: the shipped ones")
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--sheets", type=int, default=200)
    parser.add_argument("--show", action="store_true", help="print each answer that is not right")
    parser.add_argument("--out", type=Path, help="also write the counts to this json file")
    arguments = parser.parse_args()
    asked = [*heldout_scenes(arguments.scenes), *heldout_clips(arguments.clips), *heldout_sheets(arguments.sheets)]
    answer = {"transformers": answer_with_transformers, "vllm": answer_with_vllm}[arguments.engine]
    objects = named = placed = clips = right = items = read = exact = 0
    wrong: Counter[str] = Counter()
    for (shown, request), text in zip(asked, answer(demo_target(weights=arguments.weights), asked)):
        perfect = text.strip() == reference(shown, request)
        exact += perfect
        if isinstance(shown, Scene):
            scores = score_scene(shown, text)
            objects, named, placed = objects + scores[0], named + scores[1], placed + scores[2]
            wrong[request] += scores[0] - scores[2]
        elif isinstance(shown, Sheet):
            asked_for, heard = sheet_language.score(shown, request, text)
            items, read = items + asked_for, read + heard
            wrong[request] += asked_for - heard
        else:
            success = score_clip(shown, text)
            clips, right = clips + 1, right + success
            wrong[request] += not success
        if arguments.show and not perfect:
            print(f"--- {shown.content}\n{request}\n{text}", flush=True)
    if objects:
        print(f"scenes: {named} of {objects} objects named, {named / objects:.1%} (bar 90%)")
        print(f"scenes: {placed} of {named} named objects placed right, {placed / max(named, 1):.1%} (bar 85%)")
    if clips:
        print(f"clips: {right} of {clips} with the right objects and directions, {right / clips:.1%} (bar 75%)")
    if items:
        print(f"sheets: {read} of {items} items right, {read / items:.1%} (bar 85%)")
    print(f"answers equal to the reference: {exact} of {len(asked)}")
    if arguments.out is not None:
        write_provenance(
            arguments.out, engine=arguments.engine, target=demo_name(arguments.weights), objects=objects, named=named, placed=placed,
            clips=clips, clips_right=right, items=items, items_right=read, answers=len(asked), equal_to_reference=exact,
        )  # fmt: skip
    for request, count in wrong.most_common():
        print(f"  {count:3d} objects, clips or items wrong: {request}")


if __name__ == "__main__":
    main()
