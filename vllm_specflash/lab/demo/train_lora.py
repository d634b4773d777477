"""Teach SmolLM2 to talk about pictures: LoRA on the frozen language model, and the projector with it.

    python -m vllm_specflash.lab.demo.train_lora WORK_FOLDER --steps 1390

Reads WORK_FOLDER/tower.safetensors and projector.safetensors (the warmed-up one); resumes from WORK_FOLDER/lora.pt, written
every 25 steps; leaves lora.safetensors and projector.safetensors in WORK_FOLDER/final/ after every checkpoint. With a
lora.safetensors beside them (a shipped one) training goes on from that, and with `--sheets` it teaches reading sheets out:

    python -m vllm_specflash.lab.demo.train_lora WORK_FOLDER --steps 500 --sheets 0.7 --peak 0.6
"""

import argparse
import os
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo.conversations import IMAGE_TOKEN_ID, batch
from vllm_specflash.lab.demo.lora import add_lora
from vllm_specflash.lab.demo.parts import LORA, PROJECTOR, tensors_of
from vllm_specflash.lab.demo.projector import Projector, load_tower
from vllm_specflash.lab.demo.smollm2 import load_language_model, load_tokenizer
from vllm_specflash.lab.demo.tower import patch_features, pixels

LORA_LR, PROJECTOR_LR, WARMUP = 1e-3, 3e-4, 20


def visual_embeddings(tower, projector, pictures) -> torch.Tensor:
    """uint8 [n, 96, 96, 3] to float32 [n, 64, 576]; the tower is frozen."""
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        features = patch_features(tower, pixels(pictures))
    return projector(features.float())


def answer_loss(model, visual, data):
    """Mean cross-entropy and accuracy of the answers' tokens; logits are computed for those positions alone."""
    embeds = model.get_input_embeddings()(data["tokens"])
    spots = (data["tokens"] == IMAGE_TOKEN_ID)[..., None].expand_as(embeds)
    embeds = embeds.masked_scatter(spots, visual.to(embeds.dtype))
    bias = torch.zeros(data["mask"].shape, dtype=embeds.dtype).masked_fill_(~data["mask"], -1e9)
    hidden = model.model(
        inputs_embeds=embeds, attention_mask=bias, position_ids=data["positions"], use_cache=False
    ).last_hidden_state
    asked = data["wanted"][:, 1:]
    logits = model.lm_head(hidden[:, :-1][asked]).float()
    wanted = data["tokens"][:, 1:][asked]
    return F.cross_entropy(logits, wanted), (logits.argmax(-1) == wanted).float().mean().item()


def schedule(step: int, steps: int) -> float:
    """Fraction of the peak learning rate: warm-up, constant, and a linear way down to 2% over the last two fifths."""
    return min(1.0, (step + 1) / WARMUP, max(0.02, (1 - step / steps) / 0.4))


def save(folder: Path, step: int, lora, projector, optimizer) -> None:
    state = {"lora": lora, "projector": projector.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, folder / "lora.tmp")
    os.replace(folder / "lora.tmp", folder / "lora.pt")
    (folder / "final").mkdir(exist_ok=True)
    save_file({name: p.detach().contiguous() for name, p in lora.items()}, folder / "final" / LORA)
    save_file(projector.state_dict(), folder / "final" / PROJECTOR)


@one_sentence_errors()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=1390)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sheets", type=float, default=0.0, help="share of batches that are sheets to be read out")
    parser.add_argument("--peak", type=float, default=1.0, help="fraction of the usual learning rates")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    folder = arguments.folder
    model, tokenizer = load_language_model(), load_tokenizer()
    # On CPUs the fused attention's backward costs as much as all matrix products of these short sequences together.
    model.set_attn_implementation("eager")
    lora, tower, projector = add_lora(model), load_tower(folder), Projector()
    optimizer = torch.optim.AdamW(
        [{"params": list(lora.values()), "peak": LORA_LR}, {"params": list(projector.parameters()), "peak": PROJECTOR_LR}],
        betas=(0.9, 0.98),
        weight_decay=0.0,
    )
    start = 0
    if (folder / "lora.pt").exists():
        state = torch.load(folder / "lora.pt")
        start = state["step"]
        for name, parameter in lora.items():
            parameter.data.copy_(state["lora"][name])
        projector.load_state_dict(state["projector"])
        optimizer.load_state_dict(state["optimizer"])
    else:
        projector.load_state_dict(tensors_of(folder / PROJECTOR))
        if (folder / LORA).exists():
            for name, value in tensors_of(folder / LORA).items():
                lora[name].data.copy_(value)
    began, tokens = time.time(), 0
    for step in range(start, arguments.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * arguments.peak * schedule(step, arguments.steps)
        data = batch(step, tokenizer, sheets=arguments.sheets)
        loss, accuracy = answer_loss(model, visual_embeddings(tower, projector, data["pictures"]), data)
        loss.backward()
        for group in optimizer.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        tokens += data["tokens"].numel()
        seconds = time.time() - began
        frames = len(data["pictures"]) // len(data["tokens"])
        print(
            f"step {step} frames {frames} loss {loss.item():.4f} accuracy {accuracy:.4f} "
            f"{tokens / seconds:.0f} tokens/s {seconds:.0f} s",
            flush=True,
        )
        if (step + 1) % 25 == 0 or step + 1 == arguments.steps:
            save(folder, step + 1, lora, projector, optimizer)


if __name__ == "__main__":
    main()
