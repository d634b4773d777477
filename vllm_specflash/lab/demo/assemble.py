"""Checkpoint folders of the demo targets, built on first use: `python -m vllm_specflash.lab.demo.assemble`."""

import hashlib
import json
import os
from pathlib import Path

from vllm_specflash.lab.cache import build_once, cache_root
from vllm_specflash.lab.checkout import WEIGHTS
from vllm_specflash.lab.demo.parts import LORA, PROJECTOR, TOWER, part, tensors_of
from vllm_specflash.lab.demo.smollm2 import load_language_model, load_tokenizer

# SmolLM2's template, without its default system prompt and with image parts: each picture is a line of its own.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- else -%}{{- '<image>\\n' -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def text_target(cache_dir: str | os.PathLike | None = None) -> Path:
    """Folder with plain SmolLM2-135M-Instruct: bf16 safetensors, tokenizer, chat template (20 s the first time)."""

    def build(folder: Path) -> None:
        load_language_model().save_pretrained(folder)
        load_tokenizer().save_pretrained(folder)

    return build_once(cache_root(cache_dir) / "smollm2-135m-instruct", build)


def demo_target(cache_dir: str | os.PathLike | None = None, weights: Path = WEIGHTS) -> Path:
    """Folder with the demo vision-language model, a `LlavaForConditionalGeneration` of 140M parameters.

    64 visual tokens per 96x96 picture; a clip is its frames as pictures. `weights` holds the tower, the projector and
    the LoRA; the folder's name follows from their content, so new weights never meet an old cache.
    """
    return build_once(cache_root(cache_dir) / demo_name(weights), lambda scratch: _build_llava(scratch, weights))


def demo_name(weights: Path = WEIGHTS) -> str:
    """What its drafts know it by."""
    digest = hashlib.sha256()
    for name in (TOWER, PROJECTOR, LORA):
        digest.update(part(weights, name).read_bytes())
    digest.update(CHAT_TEMPLATE.encode())
    return f"specflash-demo-vlm-{digest.hexdigest()[:12]}"


def _build_llava(folder: Path, weights: Path) -> None:
    from safetensors.torch import save_file

    from vllm_specflash.lab.demo.lora import merge_lora

    tower, projector, lora = (tensors_of(part(weights, name)) for name in (TOWER, PROJECTOR, LORA))
    text = load_language_model()
    merge_lora(text, lora)
    tensors = {f"language_model.{name}": tensor for name, tensor in text.state_dict().items() if name != "lm_head.weight"}
    # The names of published LLaVA checkpoints, which both transformers and every supported vLLM read; transformers 5
    # itself would save "vision_tower.embeddings...", which vLLM 0.32 does not know.
    for name, tensor in tower.items():
        tensors[f"vision_tower.vision_model.{name}"] = tensor
    for name, tensor in projector.items():
        tensors[f"multi_modal_projector.{name}"] = tensor
    tensors = {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    _llava_config(text.config).save_pretrained(folder)
    text.generation_config.save_pretrained(folder)
    _save_processor(folder)


def _llava_config(text_config):
    import torch
    from transformers import LlavaConfig

    from vllm_specflash.lab.demo.canvas import GRID
    from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID
    from vllm_specflash.lab.demo.tower import tower_config

    config = LlavaConfig(
        vision_config=tower_config(),
        text_config=text_config,
        image_token_index=IMAGE_TOKEN_ID,
        image_seq_length=GRID * GRID,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    config.architectures = ["LlavaForConditionalGeneration"]
    config.text_config._name_or_path = ""  # else the path of an installed package would be saved
    config.dtype = torch.bfloat16
    return config


def _save_processor(folder: Path) -> None:
    """Tokenizer whose unused token 16 is called <image>, and the image processor that scales 96x96 pixels to -1..1."""
    from transformers import AutoTokenizer, CLIPImageProcessor, LlavaProcessor

    from vllm_specflash.lab.demo.canvas import IMAGE, PATCH
    from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN, IMAGE_TOKEN_ID

    load_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace('"<empty_output>"', json.dumps(IMAGE_TOKEN)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(IMAGE_TOKEN) == IMAGE_TOKEN_ID
    side = {"height": IMAGE, "width": IMAGE}
    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE}, crop_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3
    )
    LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)


if __name__ == "__main__":
    print(text_target())
    print(demo_target())
