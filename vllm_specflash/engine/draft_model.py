"""The draft as an engine holds it: its network, its pages in the KV cache, and the target's parts that it shares."""

from pathlib import Path

import torch
from torch import Tensor, nn
from vllm.logger import init_logger

from vllm_specflash.config import SpecFlashError, first_sentence
from vllm_specflash.draft import SpecFlashDraft
from vllm_specflash.draft.linear import linear_of
from vllm_specflash.engine.cache import DraftCache
from vllm_specflash.engine.packed import compute_by, pack, unmap
from vllm_specflash.engine.parallel import Ranks
from vllm_specflash.engine.spans import VISUAL, Spans
from vllm_specflash.engine.target import embed_tokens, language_model, lm_head_rows

logger = init_logger("vllm.specflash")

NO_SPANS = Spans.of([], 0)


def load_draft(folder: Path, dtype: torch.dtype) -> SpecFlashDraft:
    """The draft of a checkpoint folder.

    Raises:
        SpecFlashError: its weights are damaged, for example by a copy that was cut short.
    """
    try:
        return SpecFlashDraft.from_pretrained(folder, dtype=dtype)
    except Exception as error:
        raise SpecFlashError(
            f"The weights of the SpecFLASH draft in {folder} could not be read ({first_sentence(error)}): "
            "copy its model.safetensors there again."
        ) from error


def visual_ranges(mm_features: list) -> list[tuple[int, int]]:
    """(start, length) of each of a request's pictures and videos."""
    return [(f.mm_position.offset, f.mm_position.length) for f in mm_features if f.modality in VISUAL]


class LoadedDraft:
    """
    Args:
        vllm_config: of the engine.
        target: its model. Where several ranks share it, they share the draft's attention heads too.

    Attributes:
        model: the draft, on the engine's device.
        cache: its pages; registered with vLLM, allocated later.
        lm_head: Linear(D, V_d).
        embed: token ids [T] -> [T, D].
    """

    def __init__(self, vllm_config, target: nn.Module, ranks: Ranks | None = None):
        folder = Path(vllm_config.speculative_config.specflash.model)
        self.ranks = ranks or Ranks()
        self.model = load_draft(folder, vllm_config.model_config.dtype).eval().requires_grad_(False)
        self.config = config = self.model.config
        if self.ranks.count > 1:
            self.model.attention.keep_share(self.ranks.rank, self.ranks.count)
            self.model.attention.o_proj.register_forward_hook(lambda layer, inputs, output: self.sum(output))
        device = vllm_config.device_config.device
        self.model.to(device)
        self.cache = DraftCache(vllm_config, self.model.attention)
        wanted = None if config.draft_vocab_size is None else self.model.d2t
        self.lm_head = linear_of(lm_head_rows(target, config.target_vocab_size, wanted, self.ranks))
        self.embed = embed_tokens(target)
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters()) / 2**20
        if device.type == "cpu":
            self._pack(target)
        logger.info(
            "SpecFLASH draft loaded from %s: %.1f MiB, rounds of %d tokens", folder, weights, config.semi_ar_width
        )

    def _pack(self, target: nn.Module) -> None:
        """Multiply matrices as vLLM does on CPUs; the target's own table is packed already, and one copy of it is enough."""
        pack(self.model)
        unmap(self.model)
        head = getattr(language_model(target), "lm_head", None)
        if self.config.draft_vocab_size is None and hasattr(head, "cpu_linear") and self.ranks.count == 1:
            compute_by(self.lm_head, head)
        else:
            pack(self.lm_head)

    def sum(self, partial: Tensor) -> Tensor:
        """Of the ranks' shares of the attention's output."""
        return self.ranks.sum(partial)

    def spans_of(self, mm_features: list) -> Spans:
        """Visual spans of a request's multimodal items, or their pieces; to a draft that compresses nothing they are text."""
        pooling, ranges = self.config.pooling, visual_ranges(mm_features)
        return Spans.of(pooling.cut(ranges), pooling.latents) if pooling is not None and ranges else NO_SPANS
