"""Questions to a tiny served model, in OpenAI's format."""

import base64
import io

from engines import noise_image

# What the server is called in `serving.serve`.
MODEL = "tiny"


def data_url(seed: int, format: str = "PNG") -> str:
    buffer = io.BytesIO()
    noise_image(seed).save(buffer, format=format)
    return as_url(buffer.getvalue(), f"image/{format.lower()}")


def as_url(content: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image(url: str) -> dict:
    return {"type": "image_url", "image_url": {"url": url}}


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
