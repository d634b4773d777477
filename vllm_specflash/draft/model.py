"""The draft network. The target's embedding table and lm_head are shared: callers pass them in, no copy is stored."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel, initialization

from vllm_specflash.draft.attention import DraftAttention
from vllm_specflash.draft.compressor import LatentCompressor, compressor_of
from vllm_specflash.draft.config import SpecFlashConfig
from vllm_specflash.draft.feed_forward import FeedForward, SilentLinear
from vllm_specflash.draft.head import Selector, SemiARHead, Transition

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


class SpecFlashDraft(PreTrainedModel):
    """One step of drafting is `fuse` (text) or `compressor` (images), then `layer`, then `predict`.

    Shapes: T positions of any leading shape, D hidden size, K semi-AR width, V_d draft vocabulary.
    """

    config_class = SpecFlashConfig
    base_model_prefix = "draft"

    def __init__(self, config: SpecFlashConfig):
        super().__init__(config)
        size = config.hidden_size
        self.compressor = compressor_of(config)
        self.fc = nn.Linear(size + config.feature_size, size)
        self.attention = DraftAttention(config)
        self.feed_forward = FeedForward(size, config.feed_forward, config.rms_norm_eps) if config.feed_forward else None
        self.head = SemiARHead(size, config.semi_ar_width, config.head_expansion)
        if config.variant == "residual":
            self.attention_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
            self.head_norm = nn.RMSNorm(size, eps=config.rms_norm_eps)
        if config.transition_rank:
            self.transition = Transition(config.num_draft_tokens, config.transition_rank, size, config.selector_width)
        if config.draft_vocab_size is not None:
            # Draft index -> target token id, ascending.
            self.register_buffer("d2t", torch.arange(config.draft_vocab_size))
        self.post_init()

    def fuse(self, next_token_embeddings: Tensor, hidden: Tensor) -> Tensor:
        """W_fc [emb(x_{t+1}); h_t] + b: [T, D] and [T, feature_size] -> u [T, D].

        States of other layers come at sizes of their own and are normed. In later rounds there are none: [T, D] will do.
        """
        size = self.config.hidden_size
        if self.config.target_layers:
            others = hidden[..., size:].unflatten(-1, (-1, size))
            others = F.rms_norm(others, (size,)).flatten(-2)
            hidden = torch.cat((hidden[..., :size], others), dim=-1)
            hidden = F.pad(hidden, (0, self.config.feature_size - hidden.shape[-1]))
        return self.fc(torch.cat((next_token_embeddings, hidden), dim=-1))

    def normed(self, u: Tensor) -> Tensor:
        """What the attention's projections read of its inputs u [..., D]."""
        return self.attention_norm(u) if self.config.variant == "residual" else u

    def layer(self, u: Tensor, positions: Tensor, attend: Attend, rows: Tensor | None = None) -> Tensor:
        """Attention over the compressed sequence, and the feed-forward block if there is one: inputs u [T, D] at draft positions [T] -> x [T, D].

        `attend(q [T, H, Dh], k [T, Hkv, Dh], v [T, Hkv, Dh])` returns [T, H, Dh] or [T, H * Dh]; the engine's
        writes k and v into the paged cache and attends through slot lists. With `rows` [Q], only those positions'
        outputs are wanted: attend gets q [Q, H, Dh] and x is [Q, D].
        """
        q, k, v = self.attention.project(self.normed(u), positions)
        if rows is not None:
            q, u = q[rows], u[rows]
        return self.after_attention(u, attend(q, k, v))

    def after_attention(self, u: Tensor, attended: Tensor) -> Tensor:
        """The layer's output x [T, D] out of its inputs u [T, D] and what their queries found [T, H, Dh] or [T, H * Dh]."""
        out = self.attention.output(attended)
        x = u + out if self.config.variant == "residual" else out
        return x if self.feed_forward is None else x + self.feed_forward(x)

    def predict(self, x: Tensor) -> Tensor:
        """x [T, D] -> h^ [T, K, D]; lm_head(h^[:, i - 1]) at position t is the distribution of x_{t+1+i}."""
        if self.config.variant == "plain":
            return self.head(x)
        return x.unsqueeze(-2) + self.head(self.head_norm(x))

    def draft_lm_head(self, lm_head_weight: Tensor) -> Tensor:
        """Rows of the target's lm_head [V, D] that the draft can propose, [V_d, D]."""
        return lm_head_weight if self.config.draft_vocab_size is None else lm_head_weight[self.d2t]

    def to_target_ids(self, draft_ids: Tensor) -> Tensor:
        """Draft-vocabulary indices -> the target's token ids."""
        return draft_ids if self.config.draft_vocab_size is None else self.d2t[draft_ids]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Called by transformers for modules that no checkpoint filled."""
        std = self.config.initializer_range
        if isinstance(module, LatentCompressor):
            module.initialise(std)
        elif isinstance(module, Transition):
            initialization.normal_(module.previous, std=std)
            # Zero, so that an untrained term changes nothing.
            initialization.zeros_(module.following)
        elif isinstance(module, Selector):
            # The same; and tokens' vectors are as small as they were drawn above.
            initialization.zeros_(module.out_weight)
            initialization.normal_(module.token_weight, std=1.0)
        elif isinstance(module, nn.RMSNorm):
            initialization.ones_(module.weight)
        elif isinstance(module, SilentLinear):
            initialization.zeros_(module.weight)
        elif isinstance(module, nn.Linear):
            initialization.normal_(module.weight, std=std)
            if module.bias is not None:
                initialization.zeros_(module.bias)
