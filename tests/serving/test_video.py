"""A video as frames, to a served Qwen2.5-VL."""

import base64
import io
import json
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from drafts import draft_for
from engines import ALWAYS, engine, noise_image
from openai import OpenAI
from questions import MODEL
from serving import counter, serve
from tiny_models import tiny_qwen2_5_vl
from vllm import SamplingParams

from vllm_specflash.engine.stats import PREFIX


def _frames(*seeds: int) -> str:
    """A video as vLLM takes it inside a request: frames as JPEG, joined by commas."""
    encoded = []
    for seed in seeds:
        buffer = io.BytesIO()
        noise_image(seed, 64).save(buffer, format="JPEG")
        encoded.append(base64.b64encode(buffer.getvalue()).decode())
    return "data:video/jpeg;base64," + ",".join(encoded)


def _about(*seeds: int) -> list[dict]:
    video = {"type": "video_url", "video_url": {"url": _frames(*seeds)}}
    return [{"role": "user", "content": [video, {"type": "text", "text": " what moves?"}]}]


VIDEOS = [_about(1, 2, 3, 4), _about(5, 6), _about(1, 2, 3, 4, 5, 6, 7, 8)]


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    target = tiny_qwen2_5_vl(tmp_path_factory.mktemp("targets") / "tiny-qwen")
    draft_for(target, target / "specflash", knowing=True)
    return target


@pytest.fixture(scope="module")
def plain(qwen):
    with engine(qwen, max_model_len=1024) as llm:
        outputs = llm.chat(VIDEOS, SamplingParams(temperature=0, max_tokens=32), use_tqdm=False)
        return [out.outputs[0].text for out in outputs]


@pytest.fixture
def temporary():
    """The server's folder for temporary files; pytest's own are too long for the sockets that vLLM makes there."""
    with TemporaryDirectory() as folder:
        yield Path(folder)


def test_videos_are_answered_as_by_plain_vllm(plain, qwen, tmp_path, temporary):
    options = ["--speculative-config", json.dumps(ALWAYS), "--dtype", "float32", "--enforce-eager", "--max-model-len", "1024"]
    options += ["--kv-cache-memory-bytes", str(64 << 20)]
    with serve(qwen, tmp_path / "log.txt", *options, TMPDIR=str(temporary)) as address:
        client = OpenAI(base_url=f"{address}/v1", api_key="none")
        answers = [
            client.chat.completions.create(model=MODEL, messages=messages, temperature=0, max_tokens=32)
            for messages in VIDEOS
        ]
        assert [answer.choices[0].message.content for answer in answers] == plain
        assert counter(address, "vllm:spec_decode_num_accepted_tokens") > 0
        # Twice the frames, more visual tokens.
        assert answers[2].usage.prompt_tokens > answers[0].usage.prompt_tokens
        assert counter(address, f"{PREFIX}visual_tokens") > counter(address, f"{PREFIX}latents") > 0
        assert len(list(temporary.glob("vllm-specflash-*"))) == 1
    # The server took its metrics' files with it.
    assert not list(temporary.glob("vllm-specflash-*"))
