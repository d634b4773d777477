"""The EAGLE-3 peer: what it is taught, what it drafts, and that vLLM's own method serves it."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from engines import noise_image
from safetensors.torch import load_file

from vllm_specflash.config import SpecFlashError
from vllm_specflash.draft.compressor import Pooling
from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.batch import collate
from vllm_specflash.train.dataset import AnswerSet
from vllm_specflash.train.eagle3 import Eagle3Draft
from vllm_specflash.train.eagle3_recipe import Eagle3Options, judge, train_eagle3
from vllm_specflash.train.prompts import Prompt
from vllm_specflash.train.target import Target

OPTIONS = Eagle3Options(
    layers="0,1", draft_vocab_size=60, steps_ahead=3, max_steps=6, batch_size=2, warmup_steps=2, held_out_share=0.3, save_every=2
)


@pytest.fixture
def draft(llama) -> Eagle3Draft:
    torch.manual_seed(0)
    draft = Eagle3Draft(llama.text_config, [0, 1], torch.arange(0, 60))
    for parameter in draft.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return draft


@torch.no_grad()
def test_a_chain_equals_committing_its_tokens_one_by_one(llama, draft):
    """Along a known sequence, step s of the chain at t is a plain forward over rows 0..t and s rows of its own."""
    ids, features = torch.randint(0, 60, (1, 9)), torch.randn(1, 9, 2 * 128)
    embedding = torch.randn(len(llama.embedding), 128)
    rows = torch.tensor([[5, 0, 3]])
    states = draft.taught(features, ids, embedding, rows, 3)
    for place, t in enumerate(rows[0].tolist()):
        f, embeddings = draft.fc(features)[:, : t + 1], F.embedding(ids[:, 1 : t + 2], embedding)
        for step in range(3):
            out = draft.midlayer(embeddings, f, torch.arange(t + 1 + step)[None], [], [])
            torch.testing.assert_close(states[0, place, step], draft.norm(out[0, -1]), rtol=1e-4, atol=1e-4)
            f = torch.cat((f, out[:, -1:]), 1)
            embeddings = F.embedding(ids[:, 1 : t + 3 + step], embedding)


def test_answers_of_several_lengths_are_trained_side_by_side(llama, llama_answers):
    samples = [llama.sample(answer, 4096) for answer in (llama_answers[3], llama_answers[0], llama_answers[7])]
    batch = collate(samples, Pooling(1), 3)
    rows, given = batch.answer_positions()
    flat = rows + torch.arange(3)[:, None] * batch.shape[1]
    assert flat[given].tolist() == batch.answer_from.tolist()
    assert given.sum(1).tolist() == [len(sample) - 1 - sample.answer_start for sample in samples]


@torch.no_grad()
def test_drafts_follow_their_own_tokens(llama, draft):
    ids, features = torch.randint(0, 60, (1, 6)), torch.randn(1, 6, 2 * 128)
    embedding, lm_head = torch.randn(len(llama.embedding), 128), torch.randn(60, 128)
    chains = draft.chains(features, ids, embedding, lm_head, torch.tensor([[1, 4]]), 3)
    assert chains.shape == (1, 2, 3)
    # With its own tokens as the sequence, it is taught what it drafted.
    said = torch.cat((ids[:, :3], chains[:, 0]), 1)
    states = draft.taught(F.pad(features[:, :2], (0, 0, 0, 4)), said, embedding, torch.tensor([[1]]), 3)
    assert F.linear(states[0, 0], lm_head).argmax(-1).tolist() == chains[0, 0].tolist()


SERVE = """
import sys
from PIL import Image
from vllm import LLM, SamplingParams

target, draft, prompts = sys.argv[1], sys.argv[2], eval(sys.argv[3])
config = {"method": "eagle3", "model": draft, "num_speculative_tokens": 4}
llm = LLM(target, dtype="float32", enforce_eager=True, max_model_len=256, speculative_config=config, disable_log_stats=False)
for prompt in prompts:
    if "multi_modal_data" in prompt:
        prompt["multi_modal_data"] = {"image": [Image.open(path) for path in prompt["multi_modal_data"]["image"]]}
outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=20), use_tqdm=False)
print([list(o.outputs[0].token_ids) for o in outputs])
print({m.name: m.value for m in llm.get_metrics() if "spec_decode" in m.name and hasattr(m, "value")})
"""


def served(target: str, draft: Path, prompts: list[dict]) -> tuple[list[list[int]], int]:
    """What vLLM's eagle3 answers in 20 tokens, and the steps that it took after each first token."""
    run = subprocess.run([sys.executable, "-c", SERVE, target, draft, repr(prompts)], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    said, metrics = (eval(line) for line in run.stdout.splitlines()[-2:])
    return said, int(metrics["vllm:spec_decode_num_drafts"])


def test_it_learns_goes_on_where_it_was_interrupted_and_vllm_serves_it(llama, llama_answers, tmp_path):
    AnswerFolder(tmp_path / "answers").append(llama_answers)

    def train(out: str, **changes):
        options = replace(OPTIONS, **changes)
        return train_eagle3(llama.path, [tmp_path / "answers"], tmp_path / "features", tmp_path / out, options)

    results = train("whole", max_steps=60, learning_rate=3e-3)
    assert results["chat"].tau > 1.2
    train("cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    # Of a run that ends after six steps, the state after four is what an interruption leaves.
    state = torch.load(tmp_path / "cut" / "training.pt")
    assert state["done"] == 6
    train("cut")
    assert (tmp_path / "cut" / "model.safetensors").read_bytes() == whole
    with pytest.raises(SpecFlashError, match=r"cut holds a training with other settings \(max_steps\): name another --out"):
        train("cut", max_steps=8)
    prompts = [{"prompt_token_ids": llama.family.encode(answer.prompt).input_ids.tolist()} for answer in llama_answers]
    said, steps = served(llama.path, tmp_path / "whole", prompts)
    assert said == [answer.token_ids[:20] for answer in llama_answers]
    assert steps < 8 * 19 / 1.2


def simulated_steps(target: Target, folder: Path, answers: list[Answer], blind: bool = False) -> int:
    """Of the checkpoint in `folder`/draft, over all answers; `blind`: without the target's states where pictures are."""
    saved = load_file(folder / "draft" / "model.safetensors")
    lm_head, d2t = saved.pop("lm_head.weight").float(), saved.pop("d2t")
    draft = Eagle3Draft(target.text_config, [0, 1], d2t + torch.arange(len(d2t)))
    draft.load_state_dict(saved, strict=False)
    seeing = Target(target.path, torch.float32, layers=[0, 1])
    answer_set = AnswerSet(answers, seeing, 4096, Counter(), None)
    if blind:
        features_of = answer_set.features

        def without_pictures(samples, *arguments):
            features = features_of(samples, *arguments)
            ((start, length),) = samples[0].spans
            features.hidden[:, start : start + length, 128:] = 0
            return features

        answer_set.features = without_pictures
    return judge(draft, answer_set, seeing.embedding.float(), lm_head, 4)["scenes"].steps


def test_one_that_sees_pictures_is_served_as_it_was_trained(llava, greedy_answer, tmp_path):
    """What it is worth in vLLM is what it is worth in simulation, and less where the pictures are others than the target's."""
    prompts = []
    for number in range(10):
        noise_image(number).save(tmp_path / f"{number}.png")
        parts = [{"type": "image", "path": str(tmp_path / f"{number}.png")}, {"type": "text", "text": "what is it? "}]
        prompts.append(Prompt(f"p{number}", "scenes", [{"role": "user", "content": parts}]))
    AnswerFolder(tmp_path / "answers").append([greedy_answer(llava, prompt, 20) for prompt in prompts])
    answers = list(AnswerFolder(tmp_path / "answers"))
    options = replace(OPTIONS, max_steps=80, learning_rate=3e-3, steps_ahead=3, held_out_share=0.3)
    train_eagle3(llava.path, [tmp_path / "answers"], tmp_path / "features", tmp_path / "draft", options)
    asked = [
        {"prompt": llava.family.render(prompt.messages) + "assistant: ", "multi_modal_data": {"image": [str(path) for path in prompt.image_paths]}}
        for prompt in prompts
    ]
    said, steps = served(llava.path, tmp_path / "draft", asked)
    assert said == [answer.token_ids for answer in answers]
    assert steps == simulated_steps(llava, tmp_path, answers)
    # Fed zeros where pictures are, it is worth less: the comparison can tell.
    assert simulated_steps(llava, tmp_path, answers, blind=True) > steps + 2


def test_another_kind_of_target_is_refused(qwen2_5_vl, tmp_path):
    with pytest.raises(SpecFlashError, match="LLaVA targets on one"):
        train_eagle3(qwen2_5_vl.path, [tmp_path], tmp_path / "features", tmp_path / "out", OPTIONS)
    assert not Path(tmp_path / "out").exists()
