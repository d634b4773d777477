"""The target's parts that the draft shares: its embedding table and its lm_head."""

from collections.abc import Callable
from copy import copy

import torch
from torch import Tensor, nn
from vllm.lora.layers import VocabParallelEmbeddingWithLoRA

from vllm_specflash.config import SpecFlashError
from vllm_specflash.engine.parallel import Ranks


def language_model(model: nn.Module) -> nn.Module:
    """The text part of a vLLM model, which for a text-only one is the model itself."""
    return model.get_language_model() if hasattr(model, "get_language_model") else model


def embed_tokens(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """Function from token ids [T] to the embeddings [T, D] that the target's first layer sees.

    Raises:
        SpecFlashError: the target exposes none.
    """
    text = _without_adapted_embedding(language_model(model))
    for name in ("embed_input_ids", "get_input_embeddings"):
        if hasattr(text, name):
            return getattr(text, name)
    raise SpecFlashError(f"SpecFLASH cannot use {type(text).__name__}: it exposes no token embedding; use another target.")


def _without_adapted_embedding(module: nn.Module) -> nn.Module:
    """The same module, or where vLLM wrapped its embedding for LoRA, a shallow copy that has the embedding itself.

    The wrapper looks up the adapter of every row of the target's batch; the draft's rows are others.
    """
    wrapped = [name for name, inner in module.named_modules() if isinstance(inner, VocabParallelEmbeddingWithLoRA)]
    for name in wrapped:
        owner, _, rest = name.partition(".")
        plain = copy(module)
        plain._modules = dict(module._modules)
        inner = module.get_submodule(owner)
        plain._modules[owner] = _without_adapted_embedding(inner) if rest else inner.base_layer
        module = plain
    return module


def lm_head_rows(model: nn.Module, vocab_size: int, wanted: Tensor | None, ranks: Ranks) -> Tensor:
    """Rows [V_d, D] of the target's lm_head (or its tied embedding) for the token ids `wanted` [V_d], None for all.

    All of them are the target's own table, no copy; of a sharded one every rank gets a copy.

    Raises:
        SpecFlashError: it is quantised or missing.
    """
    text = language_model(model)
    head = getattr(text, "lm_head", None)
    weight = getattr(head, "weight", None)
    sharded = getattr(head, "tp_size", 1) > 1
    if weight is None or not weight.is_floating_point() or weight.dim() != 2 or not (sharded or len(weight) >= vocab_size):
        raise SpecFlashError(
            f"SpecFLASH cannot use the lm_head of {type(text).__name__}: it needs a plain unquantised weight; serve a "
            "checkpoint whose lm_head is not quantised."
        )
    if not sharded:
        return weight[:vocab_size] if wanted is None else weight[wanted]
    ids = torch.arange(vocab_size, device=weight.device) if wanted is None else wanted
    shard = head.shard_indices
    own = (ids >= shard.org_vocab_start_index) & (ids < shard.org_vocab_end_index)
    rows = weight.new_zeros(len(ids), weight.shape[1])
    rows[own] = weight[ids[own] - shard.org_vocab_start_index]
    return ranks.sum(rows)
