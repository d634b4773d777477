"""One step of the draft's network without an engine: its weights are all there, and numbers come out."""

import time

import torch

from vllm_specflash.config import SpecFlashOptions, find_draft, first_sentence
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.attention import dense_causal_attention
from vllm_specflash.lab.bench.doctor.checkpoints import COPY_AGAIN
from vllm_specflash.lab.bench.doctor.finding import FAULT, OK, Finding

TEXT, VISUAL = 16, 32
TRAIN_AGAIN = "Train it again, or take an earlier checkpoint of it."


def examine_trial(target: str, draft: str | None) -> Finding:
    folder = find_draft(SpecFlashOptions(model=draft), target)
    try:
        network, loaded = SpecFlashDraft.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    # A damaged file raises whatever its reader stumbles over.
    except Exception as error:
        return Finding("trial", FAULT, f"the weights in {folder} could not be read ({first_sentence(error)})", COPY_AGAIN)
    if missing := sorted(loaded["missing_keys"]):
        return Finding("trial", FAULT, f"the weights in {folder} lack {', '.join(missing)}", COPY_AGAIN)
    if broken := [name for name, weight in network.named_parameters() if not weight.isfinite().all()]:
        return Finding("trial", FAULT, f"{broken[0]} in {folder} holds values that are no numbers", TRAIN_AGAIN)
    if network.config.draft_vocab_size is not None and not _ascending_ids(network):
        return Finding("trial", FAULT, f"d2t in {folder} is no ascending list of the target's tokens", TRAIN_AGAIN)
    draft_step(network)
    # The first one also wakes threads up.
    states, seconds = draft_step(network)
    if not states.isfinite().all():
        return Finding("trial", FAULT, f"a step of the draft in {folder} gives values that are no numbers", TRAIN_AGAIN)
    return Finding("trial", OK, f"a step of the draft's network gives {states.shape[0]} states, {1e3 * seconds:.1f} ms in float32")


def _ascending_ids(network: SpecFlashDraft) -> bool:
    ids = network.d2t
    return bool((ids[1:] > ids[:-1]).all() and ids[0] >= 0 and ids[-1] < network.config.target_vocab_size)


@torch.no_grad()
def draft_step(network: SpecFlashDraft, text: int = TEXT, visual: int = VISUAL) -> tuple[torch.Tensor, float]:
    """States h^ [K, D] after random inputs, an image of `visual` tokens and `text` tokens after it, and the seconds it took."""
    size = network.config.hidden_size
    hidden, embeddings = torch.randn(text, network.config.feature_size), torch.randn(text, size)
    # A picture's final states, and what the projector gave the target, for the compressors that pool it.
    picture, projected = torch.randn(visual, size), torch.randn(visual, size)
    began = time.perf_counter()
    rows = torch.cat((network.compressor(picture, projected), network.fuse(embeddings, hidden)))
    last = network.layer(rows[None], torch.arange(len(rows))[None], dense_causal_attention)[0, -1]
    states = network.predict(last[None])[0]
    return states, time.perf_counter() - began
