"""Small random targets, built in seconds: real architectures, real processors, nothing trained."""

from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;!?'-+\n"
SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"]
HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 128, 4, 2, 32
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<image>{% endif %}{% endfor %}{% endif %}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, plus the special ones."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS, "<unk>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=SPECIAL[3:],
        chat_template=CHAT_TEMPLATE,
    )


# How strongly the layers disturb the language: about a third of the tokens are not the successor.
CONTEXT = 0.05
# What the language part of a tiny target mostly says: after token x comes SUCCESSOR[x], one long cycle.
VOCABULARY = len(SPECIAL) + len(CHARACTERS) + 1


def successor(vocab_size: int) -> torch.Tensor:
    """A fixed cycle through all ordinary tokens; special tokens lead into it."""
    ordinary = torch.arange(len(SPECIAL), vocab_size)
    order = ordinary[torch.randperm(len(ordinary), generator=torch.Generator().manual_seed(7))]
    follows = torch.full((vocab_size,), int(order[0]))
    follows[order] = order.roll(-1)
    return follows


def _speak_bigrams(model: torch.nn.Module, vocab_size: int, context: float) -> None:
    """Give a random model a predictable language that its layers disturb.

    Embeddings are one-hot and lm_head maps x to successor(x), so a draft can know the language (drafts.py);
    the layers, scaled by `context`, change the choice often enough that a wrong KV cache would show.
    """
    follows = successor(vocab_size)
    with torch.no_grad():
        embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        embedding.zero_()
        embedding[torch.arange(vocab_size), torch.arange(vocab_size)] = 1.0
        head.normal_(std=0.3)
        head[follows[len(SPECIAL) :], torch.arange(len(SPECIAL), vocab_size)] += 1.0
        # Never say a special token: an early </s> would end every test after a few tokens.
        head[: len(SPECIAL)].mul_(0.1)
        for name, weight in model.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")) and "vision" not in name:
                weight.normal_(std=context)


def tiny_llama(
    folder: Path, vocab_size: int | None = None, gain: float = 1.0, seed: int = 0, window: int = 0
) -> Path:
    """A Llama of 2 layers; a smaller `vocab_size` and `gain` (of its logits) make a target for counting samples.

    With a `window`, of 5 layers, of which all but the last see no further back.
    """
    torch.manual_seed(seed)
    tokenizer = character_tokenizer()
    vocab_size = vocab_size or len(tokenizer)
    text = {**TEXT}
    if window:
        layers = 4 * ["sliding_attention"] + ["full_attention"]
        text |= {"num_hidden_layers": len(layers), "layer_types": layers, "sliding_window": window}
    config = LlamaConfig(vocab_size=vocab_size, bos_token_id=1, eos_token_id=2, pad_token_id=0, **text)
    model = LlamaForCausalLM(config)
    _speak_bigrams(model, vocab_size, CONTEXT)
    with torch.no_grad():
        model.lm_head.weight.mul_(gain)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_qwen3(folder: Path, seed: int = 0) -> Path:
    """A text-only Qwen3 of 2 layers, with its norms of queries and keys."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer()
    config = Qwen3Config(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **TEXT)
    model = Qwen3ForCausalLM(config)
    _speak_bigrams(model, len(tokenizer), CONTEXT)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_llava(folder: Path, seed: int = 0) -> Path:
    """A LLaVA whose images are 16 visual tokens (32x32, patch 8)."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8,
        projection_dim=32,
    )  # fmt: skip
    text = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=0, **TEXT)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=SPECIAL.index("<image>"), image_seq_length=16,
        vision_feature_layer=-2, vision_feature_select_strategy="default",
    )  # fmt: skip
    model = LlavaForConditionalGeneration(config)
    _speak_bigrams(model, len(tokenizer), CONTEXT)
    for parameter in model.model.multi_modal_projector.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    save_for_vllm(model, folder)
    images = CLIPImageProcessor(
        size={"height": 32, "width": 32}, crop_size={"height": 32, "width": 32}, do_center_crop=False
    )
    LlavaProcessor(
        image_processor=images, tokenizer=tokenizer, patch_size=8, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, image_token="<image>", chat_template=CHAT_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


QWEN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}<|vision_start|><|image_pad|><|vision_end|>{% endif %}{% endfor %}{% endif %}\n{% endfor %}assistant: "
)


def tiny_qwen2_5_vl(folder: Path, seed: int = 0, pixels: int = 4096, positions: int = 2048) -> Path:
    """Qwen2.5-VL's architecture: M-RoPE, images of any size up to so many pixels (256 to a visual token), real video input."""
    torch.manual_seed(seed)
    tokenizer = character_tokenizer()
    ids = {name: tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in
           ("vision_start", "vision_end", "image_pad", "video_pad")}  # fmt: skip
    text = {
        **TEXT, "vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": positions,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": HIDDEN,
        "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 32,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=ids["image_pad"], video_token_id=ids["video_pad"],
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"],
    )  # fmt: skip
    model = Qwen2_5_VLForConditionalGeneration(config)
    _speak_bigrams(model, len(tokenizer), CONTEXT)
    model.save_pretrained(folder)
    sizes = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": {"shortest_edge": 256, "longest_edge": pixels}}
    Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**sizes), tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(**sizes), chat_template=QWEN_TEMPLATE,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def save_for_vllm(model: torch.nn.Module, folder: Path) -> None:
    """save_pretrained, with the vision tower's weights under the names that vLLM 0.32 reads."""
    state = {
        name.replace("vision_tower.", "vision_tower.vision_model.")
        if "vision_tower." in name and "vision_model." not in name
        else name: weight
        for name, weight in model.state_dict().items()
    }
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    from safetensors.torch import save_file

    save_file({name: weight.contiguous() for name, weight in state.items()}, folder / "model.safetensors", {"format": "pt"})
