"""Prompts about pictures, for training a draft: disjoint from the target's own training data and from held-out data."""

from collections.abc import Iterator

import numpy as np

from vllm_specflash.lab.demo import clip_language, scene_language, sheet_language
from vllm_specflash.lab.demo.clips import sample_clip
from vllm_specflash.lab.demo.scenes import sample_scene
from vllm_specflash.lab.demo.sheets import sample_sheet
from vllm_specflash.lab.demo.split import sample_in


def picture_prompts(
    count: int, seed: int = 0, clips: float = 0.3, split: str = "draft", detailed: float = 0.75, sheets: float = 0.0
) -> Iterator[dict]:
    """Yield `count` prompts; the same seed gives the same ones, and a longer run begins with a shorter one's.

    Each is a dict of `task` ("scenes", "clips" or "sheets"), `messages` (OpenAI chat style, pictures as
    {"type": "image_pil", "image_pil": PIL.Image}, which `vllm.LLM.chat` takes as it is), `prompt` (the request's
    text), `images` (the PIL images) and `reference` (what a perfect target would answer). A share of `clips` is about
    clips of 4 to 8 frames; a share of `detailed` asks for a long description, the rest for captions and short answers. A
    share of `sheets` is read out in place of scenes and clips.
    Drawing needs the font (see pictograms.py).
    """
    from PIL import Image

    for i in range(count):
        rng = np.random.default_rng([seed, i])
        if sheets and rng.random() < sheets:
            task, drawn = "sheets", sample_in(split, sample_sheet, rng)
            ask = sheet_language.reading
        else:
            task = "clips" if rng.random() < clips else "scenes"
            language = clip_language if task == "clips" else scene_language
            drawn = sample_in(split, sample_clip if task == "clips" else sample_scene, rng)
            if rng.random() < detailed:
                ask = language.detailed
            else:
                ask = language.caption if rng.random() < 0.5 else language.question
        request, reference = ask(drawn, rng)
        images = [Image.fromarray(picture) for picture in drawn.pictures()]
        content = [{"type": "image_pil", "image_pil": image} for image in images]
        yield {
            "task": task,
            "messages": [{"role": "user", "content": [*content, {"type": "text", "text": request}]}],
            "prompt": request,
            "images": images,
            "reference": reference,
        }
