"""The draft over whole teacher-forced sequences."""

import torch
from torch import Tensor

from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.attention import dense_causal_attention
from vllm_specflash.train.batch import Batch


def compressed_inputs(
    draft: SpecFlashDraft, batch: Batch, hidden: Tensor, embedding: Tensor, visual: Tensor | None = None
) -> Tensor:
    """Inputs u of the compressed sequences: hidden [B, L, feature_size], embedding [V, D] -> [B, S, D], zeros where padded.

    Compressors that pool the target's visual embeddings find them in `visual` [rows, D], in the order of the spans; without it, in
    the last D of `hidden`, which is then that much wider.
    """
    size, told = draft.config.hidden_size, draft.config.feature_size
    # The residual stream keeps the parameters' precision; under autocast only the products are rounded.
    flat = hidden.flatten(0, 1).to(draft.dtype)
    next_ids = batch.input_ids.flatten()[batch.text_from + 1]
    rows = [draft.fuse(embedding[next_ids].to(draft.dtype), flat[batch.text_from, :told])]
    places = [batch.text_to]
    seen = 0
    for start, length, first in batch.spans:
        span = flat[start : start + length]
        embeddings = span[:, -size:] if visual is None else visual[seen : seen + length]
        seen += length
        latents = draft.compressor(span[:, :size], embeddings)
        rows.append(latents)
        places.append(torch.arange(first, first + len(latents), device=flat.device))
    u = torch.zeros(batch.shape[0] * batch.draft_length, size, dtype=draft.dtype, device=flat.device)
    rows = torch.cat([row.to(u.dtype) for row in rows])
    return u.index_copy(0, torch.cat(places), rows).view(batch.shape[0], batch.draft_length, size)


def answer_states(
    draft: SpecFlashDraft, batch: Batch, hidden: Tensor, embedding: Tensor, visual: Tensor | None = None
) -> Tensor:
    """Predicted hidden states at the trained positions, [P, K, D]; row p, offset i stands for h_{t_p + i}."""
    u = compressed_inputs(draft, batch, hidden, embedding, visual)
    positions = torch.arange(batch.draft_length, device=u.device).expand(batch.shape[0], -1)
    x = draft.layer(u, positions, dense_causal_attention)
    return draft.predict(x.flatten(0, 1)[batch.answer_rows])
