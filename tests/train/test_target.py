"""Encoding and features of text and vision targets."""

import torch
from PIL import Image

from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.answers import Answer
from vllm_specflash.train.batch import collate
from vllm_specflash.train.prompts import Prompt


def test_features_are_what_lm_head_turns_into_the_targets_choices(llama, llama_answers):
    sample = llama.sample(llama_answers[0], 512)
    hidden = llama.hidden_states([sample])[0]
    choices = (hidden @ llama.lm_head.T).argmax(-1)
    start = sample.answer_start
    assert choices[start - 1 : -1].tolist() == llama_answers[0].token_ids


def test_padding_changes_no_features(llama, llama_answers):
    samples = [llama.sample(answer, 512) for answer in (llama_answers[0], llama_answers[5])]
    together = llama.hidden_states(samples)
    for sample, states in zip(samples, together, strict=True):
        torch.testing.assert_close(states[: len(sample)], llama.hidden_states([sample])[0], atol=1e-4, rtol=1e-4)


def test_images_become_spans_and_change_the_features(llava, tmp_path):
    for name, color in (("a", "red"), ("b", "blue")):
        Image.new("RGB", (32, 32), color).save(tmp_path / f"{name}.png")

    def sample(*names: str):
        parts = [{"type": "image", "path": str(tmp_path / f"{name}.png")} for name in names]
        prompt = Prompt("p", "scenes", [{"role": "user", "content": [*parts, {"type": "text", "text": "what is it"}]}])
        return llava.sample(Answer(prompt, [20, 21, 22], "", 0.0), 512)

    red, blue, both = sample("a"), sample("b"), sample("a", "b")
    assert [length for _, length in both.spans] == [16, 16] and both.spans[1][0] == both.spans[0][0] + 16
    assert (red.input_ids[red.spans[0][0] :][:16] == llava.config.image_token_id).all()
    hidden = llava.hidden_states([red, blue])
    assert (hidden[0] - hidden[1]).abs().max() > 1e-3
    torch.testing.assert_close(hidden[1, : len(blue)], llava.hidden_states([blue])[0], atol=1e-4, rtol=1e-4)
    batch = collate([red, both], Pooling(4), 3)
    # L' = L - sum(N_i - M_i), less one since the last position has no next token.
    assert batch.draft_length == len(both) - 2 * (16 - 4) - 1


def test_qwen2_5_vl_features_have_its_image_positions(qwen2_5_vl, tmp_path):
    """They are those of a forward over all that the processor gives, which a forward without M-RoPE's inputs is not."""
    Image.effect_noise((96, 32), 60).convert("RGB").save(tmp_path / "a.png")
    parts = [{"type": "image", "path": str(tmp_path / "a.png")}, {"type": "text", "text": "what is it"}]
    prompt = Prompt("p", "scenes", [{"role": "user", "content": parts}])
    sample = qwen2_5_vl.sample(Answer(prompt, [20, 21, 22], "", 0.0), 512)
    family = qwen2_5_vl.family
    text = family.processor.apply_chat_template(family.chat_format(prompt), add_generation_prompt=True, tokenize=False)
    inputs = dict(family.processor(text=[text], images=[Image.open(tmp_path / "a.png")], return_tensors="pt"))
    with torch.no_grad():
        wanted = qwen2_5_vl.model.model(**inputs, use_cache=False).last_hidden_state[0]
        inputs.pop("mm_token_type_ids")
        flat = qwen2_5_vl.model.model(**inputs, use_cache=False).last_hidden_state[0]
    hidden = qwen2_5_vl.hidden_states([sample])[0, : sample.answer_start]
    torch.testing.assert_close(hidden, wanted, atol=1e-5, rtol=1e-4)
    assert (hidden - flat).abs().max() > 1e-3
