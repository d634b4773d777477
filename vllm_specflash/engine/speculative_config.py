"""vLLM's SpeculativeConfig with our options on board, and every refusal that needs no weights."""

from dataclasses import replace
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, SkipValidation
from vllm.config.speculative import SpeculativeConfig
from vllm.config.utils import config as vllm_config_class
from vllm.platforms import current_platform

from vllm_specflash.config import SpecFlashError, SpecFlashOptions, find_draft, first_sentence
from vllm_specflash.draft.config import SpecFlashConfig
from vllm_specflash.engine.metrics import metrics_folder

PROPOSER = "vllm_specflash.engine.proposer.SpecFlashProposer"
# Drafted tokens of a tree, at most, unless the user says otherwise.
TREE_NODES = 16
# Element types whose KV pages the draft can read back; quantised caches would need scales of its own.
PLAIN_KV_CACHE = ("auto", "float16", "bfloat16", "float32", "half", "float")


@vllm_config_class
class SpecFlashSpeculativeConfig(SpeculativeConfig):
    """`method="custom_class"` to vLLM, which keeps its synchronous V1 runner and asks no draft model of its own."""

    specflash: SkipValidation[SpecFlashOptions] = Field(default_factory=SpecFlashOptions)
    """The user's options, `model` resolved to a local folder."""
    metrics_folder: str | None = None
    """Where this engine's workers leave their metrics (engine/metrics.py)."""

    def __repr__(self) -> str:
        return f"SpecFlashSpeculativeConfig(draft={self.specflash.model!r}, {self.num_speculative_tokens=})"


def build_speculative_config(engine_args, model_config, parallel_config) -> SpecFlashSpeculativeConfig:
    """What EngineArgs.create_speculative_config returns for method "specflash".

    Raises:
        SpecFlashError: an unsupported target or combination, no draft, or a draft for another target.
    """
    options = SpecFlashOptions.from_user(engine_args.speculative_config)
    _refuse_unsupported(engine_args, model_config, parallel_config)
    folder = find_draft(options, model_config.model, model_config.revision)
    draft = load_draft_config(folder)
    check_fits_target(draft, model_config, options, folder)
    _refuse_uneven_heads(draft, parallel_config)
    return SpecFlashSpeculativeConfig(
        method="custom_class",
        model=PROPOSER,
        num_speculative_tokens=options.num_speculative_tokens or _default_tokens(draft, options),
        target_model_config=model_config,
        target_parallel_config=parallel_config,
        specflash=replace(options, model=str(folder)),
        metrics_folder=metrics_folder(),
    )


def runs_trees(tree: bool | None) -> bool:
    """Whether an engine with the option `tree` drafts trees on this platform, if its layers can run them."""
    return tree is True and current_platform.is_cuda() or tree is not False and current_platform.is_cpu()


def _default_tokens(draft: SpecFlashConfig, options: SpecFlashOptions) -> int:
    depth = draft.semi_ar_width * draft.num_rounds
    return max(depth, TREE_NODES) if runs_trees(options.tree) else depth


def load_draft_config(folder: Path) -> SpecFlashConfig:
    """config.json of a draft.

    Raises:
        SpecFlashError: it is not a draft's, or its fields contradict each other.
    """
    try:
        fields, _ = SpecFlashConfig.get_config_dict(folder)
        if fields.get("model_type") != SpecFlashConfig.model_type:
            raise SpecFlashError(
                f"{folder} holds a model of type {fields.get('model_type')!r}, not a SpecFLASH draft: "
                "correct \"model\" in speculative_config."
            )
        return SpecFlashConfig.from_dict(fields)
    except SpecFlashError:
        raise
    except (ValueError, TypeError, OSError, StrictDataclassError) as error:
        raise SpecFlashError(f"The draft's config.json in {folder} cannot be used: {first_sentence(error)}.") from error


def check_fits_target(draft: SpecFlashConfig, model_config, options: SpecFlashOptions, folder: Path) -> None:
    """Refuse a draft for another target.

    Raises:
        SpecFlashError: which property differs.
    """
    for what, of_draft, of_target in (
        ("hidden size", draft.hidden_size, model_config.get_hidden_size()),
        ("vocabulary", draft.target_vocab_size, model_config.get_vocab_size()),
        ("number of KV heads", draft.num_key_value_heads, model_config.get_total_num_kv_heads()),
        ("head size", draft.head_dim, model_config.get_head_size()),
    ):
        if of_draft != of_target:
            raise SpecFlashError(
                f"The draft in {folder} is for another target: its {what} is {of_draft}, that of "
                f"{model_config.model} is {of_target}; use a draft trained for this target."
            )
    if draft.target_layers:
        raise SpecFlashError(
            f"The draft in {folder} wants the states of the target's layers {', '.join(map(str, draft.target_layers))}, which "
            "this version does not serve: train one without --target-layers."
        )
    if options.check_target_name and not _same_name(draft.target_name, model_config):
        raise SpecFlashError(
            f"The draft in {folder} was trained for {draft.target_name}, not for {model_config.model}; use a draft "
            'trained for this target, or pass "check_target_name": false if it is the same model under another name.'
        )


def _refuse_uneven_heads(draft: SpecFlashConfig, parallel_config) -> None:
    """KV heads are the target's, which vLLM itself checks."""
    ranks = parallel_config.tensor_parallel_size
    if draft.num_attention_heads % ranks:
        raise SpecFlashError(
            f"SpecFLASH does not support tensor parallelism over {ranks} ranks with a draft of "
            f"{draft.num_attention_heads} attention heads: set tensor_parallel_size to a divisor of that."
        )


def _same_name(draft_target: str, model_config) -> bool:
    """Names match by their last part, ignoring case; folders may append to it (`smollm2-...-<hash>`)."""
    if not draft_target:
        return True
    wanted = draft_target.rstrip("/").rsplit("/", 1)[-1].lower()
    names = {model_config.model, getattr(model_config.hf_config, "_name_or_path", "") or ""}
    # A hub snapshot's folder is named by its commit; the repository is two levels up.
    parts = [part.lower() for name in names for part in name.rstrip("/").replace("--", "/").split("/")]
    return any(part.startswith(wanted) for part in parts if part)


def _refuse_unsupported(engine_args, model_config, parallel_config) -> None:
    kv_cache_dtype = str(getattr(engine_args, "kv_cache_dtype", "auto"))
    for unsupported, what, advice in (
        (parallel_config.pipeline_parallel_size > 1, "pipeline parallelism", "set pipeline_parallel_size to 1"),
        (
            getattr(parallel_config, "decode_context_parallel_size", 1) > 1,
            "decode context parallelism",
            "set decode_context_parallel_size to 1",
        ),
        (model_config.is_encoder_decoder, "encoder-decoder targets", "serve this target without speculation"),
        (
            model_config.is_hybrid or model_config.is_attention_free,
            "targets with state-space or linear-attention layers",
            "serve this target without speculation",
        ),
        (model_config.use_mla, "targets with multi-head latent attention", "serve this target without speculation"),
        (model_config.runner_type == "pooling", "pooling models", "leave speculative_config out"),
        (
            kv_cache_dtype not in PLAIN_KV_CACHE,
            f"a KV cache of type {kv_cache_dtype}",
            "leave kv_cache_dtype at 'auto'",
        ),
    ):
        if unsupported:
            raise SpecFlashError(f"SpecFLASH does not support {what}: {advice}.")
