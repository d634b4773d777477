"""Prompts for the tiny Qwen2.5-VL of tiny_models.py: pictures of any size, and videos."""

import numpy as np
from engines import noise_image

PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


def with_pictures(text: str, *pictures: tuple[int, int]) -> dict:
    """A prompt; `text` holds one <image> per (seed, side in pixels)."""
    shown = {"image": [noise_image(seed, size) for seed, size in pictures]}
    return {"prompt": text.replace("<image>", PICTURE), "multi_modal_data": shown}


def with_video(text: str, frames: int, size: int, seed: int) -> dict:
    """A prompt; `text` holds one <video>, of frames [frames, size, size, 3] at two a second."""
    pixels = np.random.default_rng(seed).integers(0, 255, (frames, size, size, 3), dtype=np.uint8)
    metadata = {
        "fps": 2.0, "duration": frames / 2, "total_num_frames": frames, "frames_indices": list(range(frames)),
        "video_backend": "opencv", "do_sample_frames": False,
    }  # fmt: skip
    return {"prompt": text.replace("<video>", VIDEO), "multi_modal_data": {"video": [(pixels, metadata)]}}


def pictures_and_none() -> list[dict]:
    """16 visual tokens, 4 and 16 of them, and none."""
    return [
        with_pictures("user: <image> what? assistant: ", (1, 64)),
        with_pictures("user: <image> or <image> what? assistant: ", (2, 32), (3, 96)),
        with_pictures("user:  what? assistant: "),
    ]


def pictures_and_videos() -> list:
    """The same of pictures; a video of three pairs of frames, 9 visual tokens each; and words alone."""
    return [
        with_pictures("user: <image> what? assistant: ", (1, 64)),
        with_pictures("user: <image> or <image>? assistant: ", (2, 32), (3, 96)),
        with_video("user: <video> what moves? assistant: ", 6, 48, 4),
        "user: only words. assistant: ",
    ]
