"""The EAGLE-3 peer: what it is taught, what it drafts, and that vLLM's own method serves it."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vllm_specflash.config import SpecFlashError
from vllm_specflash.train.answers import AnswerFolder
from vllm_specflash.train.eagle3 import Eagle3Draft
from vllm_specflash.train.eagle3_recipe import Eagle3Options, train_eagle3

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
    states = draft.taught(features, ids, embedding, 3)
    for t in (0, 3, 5):
        f, embeddings = draft.fc(features)[:, : t + 1], F.embedding(ids[:, 1 : t + 2], embedding)
        for step in range(3):
            out = draft.midlayer(embeddings, f, [], [])
            torch.testing.assert_close(states[0, t, step], draft.norm(out[0, -1]), rtol=1e-4, atol=1e-4)
            f = torch.cat((f, out[:, -1:]), 1)
            embeddings = F.embedding(ids[:, 1 : t + 3 + step], embedding)


@torch.no_grad()
def test_drafts_follow_their_own_tokens(llama, draft):
    ids, features = torch.randint(0, 60, (1, 6)), torch.randn(1, 6, 2 * 128)
    embedding, lm_head = torch.randn(len(llama.embedding), 128), torch.randn(60, 128)
    chains = draft.chains(features, ids, embedding, lm_head, 3)
    assert chains.shape == (1, 6, 3)
    # With its own tokens as the sequence, it is taught what it drafted.
    said = torch.cat((ids[:, :3], chains[:, 1]), 1)
    states = draft.taught(F.pad(features[:, :2], (0, 0, 0, 4)), said, embedding, 3)
    assert F.linear(states[0, 1], lm_head).argmax(-1).tolist() == chains[0, 1].tolist()


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
    code = f"""
from vllm import LLM, SamplingParams
config = {{"method": "eagle3", "model": {str(tmp_path / "whole")!r}, "num_speculative_tokens": 3}}
llm = LLM({llama.path!r}, dtype="float32", enforce_eager=True, max_model_len=128, speculative_config=config, disable_log_stats=False)
prompts = [{{"prompt_token_ids": ids}} for ids in {[llama.family.encode(a.prompt).input_ids.tolist() for a in llama_answers]}]
outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=20), use_tqdm=False)
print([o.outputs[0].token_ids for o in outputs])
print({{m.name: m.value for m in llm.get_metrics() if "spec_decode" in m.name and hasattr(m, "value")}})
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    said, metrics = (eval(line) for line in run.stdout.splitlines()[-2:])
    assert [list(ids) for ids in said] == [answer.token_ids[:20] for answer in llama_answers]
    assert metrics["vllm:spec_decode_num_accepted_tokens"] > 0.2 * metrics["vllm:spec_decode_num_drafts"]


def test_a_target_that_sees_is_refused(llava, tmp_path):
    with pytest.raises(SpecFlashError, match="text-only Llama"):
        train_eagle3(llava.path, [tmp_path], tmp_path / "features", tmp_path / "out", OPTIONS)
    assert not Path(tmp_path / "out").exists()
