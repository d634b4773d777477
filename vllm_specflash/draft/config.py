"""config.json of a draft checkpoint."""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

from vllm_specflash.draft.compressor import FEATURES, FORMS, Pooling

VARIANTS = ("residual", "plain")
# Shape fields that must be at least one, and those that may also be zero.
POSITIVE = (
    "hidden_size", "num_attention_heads", "num_key_value_heads", "head_dim", "semi_ar_width", "num_rounds",
    "latent_positions", "latent_heads", "head_expansion", "target_vocab_size",
)  # fmt: skip
NOT_NEGATIVE = ("num_latents", "transition_rank", "feed_forward")


@strict
class SpecFlashConfig(PreTrainedConfig):
    """Shape of a draft and the target it belongs to.

    Args:
        hidden_size: D, the target's hidden size; its hidden states and embeddings are the draft's inputs.
        num_attention_heads: query heads of the draft's one attention layer.
        num_key_value_heads: KV heads; the target's, since the draft's KV lies in the target's paged cache.
        head_dim: the target's, for the same reason.
        rope_theta: base of the rotary positions, which count in the compressed sequence.
        rms_norm_eps: epsilon of the residual variant's two norms.
        semi_ar_width: K, tokens per draft forward.
        num_rounds: R, draft forwards per step unless the engine is told otherwise.
        num_latents: M, rows that an image's hidden states are pooled into; 0 hides pictures from the draft.
        pool_length: positions that M latents pool at most, so that longer spans leave more of them (Pooling); None: M in all.
        compressor: "paper" (M content queries over the last hidden states), "placed" (queries that know places too, over
            normalised features, and a projection) or "none" (every visual position is a row of its own, like text).
        visual_features: what "placed" pools: "states" (the target's last), "embeddings" (the projector's) or "both".
        latent_positions: P, bins along a span (or a piece of it) in which "placed" says where a position lies; best its usual length.
        latent_heads: queries per latent of "placed".
        feed_forward: hidden units of a gated feed-forward block after the attention; 0: none (the paper's layer).
        head_expansion: width of the semi-AR head's hidden layer, in units of D.
        draft_vocab_size: tokens the draft can propose, listed in the checkpoint's `d2t`; None for all of them.
        transition_rank: rank of the term that corrects position i for the token guessed at i - 1; 0 for none.
        selector_width: hidden units of the part of that term that sees the predicted states too; 0: it knows tokens alone.
        target_layers: layers of the target whose inputs the draft sees beside its final hidden state, as vLLM and transformers
            number them (0: the embedding); None for the final hidden state alone.
        attention_bias: whether the attention's projections have biases (converted checkpoints of the authors do).
        variant: "residual" (residual connections and RMSNorm) or "plain" (neither: the authors' published layer).
        target_name: the target this draft was trained for, as its config names it.
        target_vocab_size: rows of the target's lm_head.

    Raises:
        ValueError: one sentence that names the field that is wrong.
    """

    model_type = "specflash"

    hidden_size: int = 576
    num_attention_heads: int = 9
    num_key_value_heads: int = 3
    head_dim: int = 64
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    semi_ar_width: int = 5
    num_rounds: int = 1
    num_latents: int = 16
    pool_length: int | None = None
    compressor: str = "paper"
    visual_features: str = "states"
    latent_positions: int = 64
    latent_heads: int = 1
    feed_forward: int = 0
    head_expansion: int = 4
    draft_vocab_size: int | None = None
    transition_rank: int = 0
    selector_width: int = 0
    target_layers: list[int] | None = None
    attention_bias: bool = False
    variant: str = "residual"
    target_name: str = ""
    target_vocab_size: int = 49152
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        # Checked here, not in a `validate_` hook, so that the sentence reaches the user unwrapped.
        for field in POSITIVE:
            if getattr(self, field) < 1:
                raise ValueError(f"A SpecFLASH draft's {field} must be at least 1, not {getattr(self, field)}.")
        for field in NOT_NEGATIVE:
            if getattr(self, field) < 0:
                raise ValueError(f"A SpecFLASH draft's {field} must not be negative, not {getattr(self, field)}.")
        if self.pool_length is not None and self.pool_length < 1:
            raise ValueError(f"A SpecFLASH draft's pool_length must be at least 1, or null for whole spans, not {self.pool_length}.")
        for field, known in (("variant", VARIANTS), ("compressor", FORMS), ("visual_features", FEATURES)):
            if getattr(self, field) not in known:
                raise ValueError(
                    f"A SpecFLASH draft's {field} must be one of {', '.join(known)}, not {getattr(self, field)!r}."
                )
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"A SpecFLASH draft's num_attention_heads ({self.num_attention_heads}) must be a multiple of its "
                f"num_key_value_heads ({self.num_key_value_heads})."
            )
        if self.head_dim % 2:
            raise ValueError(f"A SpecFLASH draft's head_dim must be even for rotary positions, not {self.head_dim}.")
        if self.selector_width < 0 or self.selector_width and not self.transition_rank:
            raise ValueError(
                f"A SpecFLASH draft's selector_width must not be negative, and needs a transition_rank: it is "
                f"{self.selector_width} with a transition_rank of {self.transition_rank}."
            )
        if self.draft_vocab_size is not None and not 1 <= self.draft_vocab_size <= self.target_vocab_size:
            raise ValueError(
                f"A SpecFLASH draft's draft_vocab_size must lie between 1 and target_vocab_size "
                f"({self.target_vocab_size}), not {self.draft_vocab_size}."
            )
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """Width of what the target tells the draft of a position: its final hidden state, then those of `target_layers`."""
        return self.hidden_size * (1 + len(self.target_layers or ()))

    @property
    def pooling(self) -> Pooling | None:
        """What is left of visual spans; None where they are not compressed."""
        return None if self.compressor == "none" else Pooling(self.num_latents, self.pool_length)

    @property
    def pools_embeddings(self) -> bool:
        """Whether the compressor reads what the projector gave the target."""
        return bool(self.num_latents) and self.compressor == "placed" and self.visual_features != "states"

    @property
    def trained_layers(self) -> list[int]:
        """Layers whose inputs training asks the target for: `target_layers`, and last the first one's, if the compressor reads them."""
        return [*(self.target_layers or ()), *([0] if self.pools_embeddings else [])]

    @property
    def num_draft_tokens(self) -> int:
        """V_d: rows of the draft's lm_head."""
        return self.draft_vocab_size or self.target_vocab_size
