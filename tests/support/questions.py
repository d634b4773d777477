"""Questions to a tiny served model, in OpenAI's format."""

import io

from engines import noise_image

from vllm_specflash.lab.serving import request
from vllm_specflash.lab.serving.request import image

# What the server is called in `serving.serve`.
MODEL = "tiny"


def data_url(seed: int, format: str = "PNG") -> str:
    buffer = io.BytesIO()
    noise_image(seed).save(buffer, format=format)
    return request.data_url(buffer.getvalue(), f"image/{format.lower()}")


def question(*seeds: int, text: str = " what is this?") -> list[dict]:
    """Pictures of noise, then words."""
    return [{"role": "user", "content": [*(image(data_url(seed)) for seed in seeds), {"type": "text", "text": text}]}]


def mixed_questions() -> list[list[dict]]:
    """Words, one picture, several, and a clip as frames."""
    return [
        [{"role": "user", "content": "hello, who are you?"}],
        question(1),
        question(2, 3, text=" compare them."),
        question(4, 5, 6, 7, text=" what moves?"),
        question(8, text=" " + "words " * 20),
    ]
