"""vLLM's SpeculativeConfig with our options on board, and every refusal that needs no weights."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from huggingface_hub.errors import StrictDataclassError
from pydantic import Field, SkipValidation
from vllm.config.speculative import SpeculativeConfig
from vllm.config.utils import config as vllm_config_class
from vllm.platforms import current_platform
from vllm.triton_utils import HAS_TRITON

from vllm_specflash.config import SpecFlashError, SpecFlashOptions, find_draft, first_sentence
from vllm_specflash.draft.config import SpecFlashConfig
from vllm_specflash.engine.cache import KV_CACHE_LAYOUTS
from vllm_specflash.engine.metrics import metrics_folder
from vllm_specflash.engine.synthetic import refuse_outside_benchmarks
from vllm_specflash.engine.target_layers import check_target_tells

PROPOSER = "vllm_specflash.engine.v1.proposer.SpecFlashProposer"
# Drafted tokens of a tree, at most, unless the user says otherwise.
TREE_NODES = 16
# Element types whose KV pages the draft can read back; quantised caches would need scales of its own.
PLAIN_KV_CACHE = ("auto", "float16", "bfloat16", "float32", "half", "float")


@vllm_config_class
class SpecFlashSpeculativeConfig(SpeculativeConfig):
    """`method="custom_class"` to vLLM, which keeps its synchronous V1 runner and asks no draft model of its own."""

    specflash: SkipValidation[SpecFlashOptions] = Field(default_factory=SpecFlashOptions)
    """The user's options, `model` resolved to a local folder."""
    trees: bool = True
    """Whether drafts may be trees, where the engine's attention can verify them."""
    target_layers: tuple[int, ...] = ()
    """Layers whose inputs the target's forward tells the draft (engine/target_layers.py)."""
    metrics_folder: str | None = None
    """Where this engine's workers leave their metrics (engine/metrics.py)."""

    def compute_hash(self) -> str:
        """vLLM's, which compiled forwards are kept under: with other layers the target's returns other states."""
        plain = super().compute_hash()
        return f"{plain} {self.target_layers}" if self.target_layers else plain

    def size_by_vllm(self, vllm_config) -> None:
        """Where vLLM can share a step's rows among the requests by what their drafts say of themselves, have it do so.

        Known once the whole configuration is: it takes full CUDA graphs and no LoRA. Elsewhere a schedule by batch size
        is measured at start (engine/v2/schedule.py).
        """
        able = hasattr(self, "enable_adaptive_verification") and current_platform.is_cuda_alike()
        graphs = vllm_config.compilation_config.cudagraph_mode
        if able and self.trees and self.specflash.sizing == "auto" and vllm_config.lora_config is None:
            self.enable_adaptive_verification = graphs is not None and graphs.has_full_cudagraphs()

    def __repr__(self) -> str:
        return f"SpecFlashSpeculativeConfig(draft={self.specflash.model!r}, {self.num_speculative_tokens=})"


def build_speculative_config(engine_args, model_config, parallel_config) -> SpecFlashSpeculativeConfig:
    """What EngineArgs.create_speculative_config returns for method "specflash".

    Raises:
        SpecFlashError: an unsupported target or combination, no draft, or a draft for another target.
    """
    options = SpecFlashOptions.from_user(engine_args.speculative_config)
    trees = trees_by_default() if options.tree is None else options.tree
    refuse_outside_benchmarks(options.synthetic_acceptance)
    _refuse_unsupported(engine_args, model_config, parallel_config)
    folder = find_draft(options, model_config.model, model_config.revision)
    draft = load_draft_config(folder)
    check_fits_target(draft, model_config, options, folder)
    check_target_tells(draft.target_layers, model_config, folder)
    _refuse_uneven_heads(draft, parallel_config)
    return SpecFlashSpeculativeConfig(
        method="custom_class",
        model=PROPOSER,
        num_speculative_tokens=options.num_speculative_tokens or _default_tokens(draft, trees),
        target_model_config=model_config,
        target_parallel_config=parallel_config,
        specflash=replace(options, model=str(folder)),
        trees=trees,
        target_layers=tuple(draft.target_layers or ()),
        metrics_folder=metrics_folder(),
    )


def runs_v2() -> bool:
    """Whether engines of this process run on vLLM's model runner V2: on GPUs, and on CPUs that Triton has a backend for."""
    return not current_platform.is_cpu() or HAS_TRITON


def trees_by_default() -> bool:
    """Not on V2 on CPUs: there our attention backend would take the place of vLLM's, which is the faster one."""
    return not (current_platform.is_cpu() and runs_v2())


def _default_tokens(draft: SpecFlashConfig, trees: bool) -> int:
    depth = draft.semi_ar_width * draft.num_rounds
    return max(depth, TREE_NODES) if trees else depth


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
    for unsupported, what, advice in (
        *_unsupported_anywhere(engine_args, model_config, parallel_config),
        *(_unsupported_on_v2(engine_args, model_config, parallel_config) if runs_v2() else ()),
    ):
        if unsupported:
            raise SpecFlashError(f"SpecFLASH does not support {what}: {advice}.")


Refusal = tuple[bool, str, str]
"""Whether it applies, what is not supported, and what to do."""


def _unsupported_anywhere(engine_args, model_config, parallel_config) -> Iterator[Refusal]:
    kv_cache_dtype = str(getattr(engine_args, "kv_cache_dtype", "auto"))
    layout = os.environ.get("VLLM_KV_CACHE_LAYOUT")
    alone = "serve this target without speculation"
    yield parallel_config.pipeline_parallel_size > 1, "pipeline parallelism", "set pipeline_parallel_size to 1"
    for size in ("decode_context_parallel_size", "prefill_context_parallel_size"):
        name = size.removesuffix("_size").replace("_", " ").replace("parallel", "parallelism")
        yield getattr(parallel_config, size, 1) > 1, name, f"set {size} to 1"
    yield model_config.is_encoder_decoder, "encoder-decoder targets", alone
    recurrent = model_config.is_hybrid or model_config.is_attention_free
    yield recurrent, "targets with state-space or linear-attention layers", alone
    yield model_config.use_mla, "targets with multi-head latent attention", alone
    yield model_config.runner_type == "pooling", "pooling models", "leave speculative_config out"
    plain = kv_cache_dtype in PLAIN_KV_CACHE
    yield not plain, f"a KV cache of type {kv_cache_dtype}", "leave kv_cache_dtype at 'auto'"
    known = layout is None or layout in KV_CACHE_LAYOUTS
    yield not known, f"the KV cache layout {layout}", "unset VLLM_KV_CACHE_LAYOUT"


def _unsupported_on_v2(engine_args, model_config, parallel_config) -> Iterator[Refusal]:
    """What reads a batch in ways that trees, or a draft that nobody waits for, would mislead. Older releases lack some names."""
    connector = getattr(engine_args, "kv_transfer_config", None) or getattr(engine_args, "kv_offloading_size", None)
    yield bool(connector), "KV connectors", "leave kv_transfer_config and kv_offloading_size out"
    sharded = getattr(parallel_config, "enable_batch_sharded_sampling", False)
    yield bool(sharded), "batch-sharded sampling", "set enable_batch_sharded_sampling to false"
    split = getattr(parallel_config, "use_ubatching", False)
    yield bool(split), "dual batch overlap", "leave enable_dbo and ubatch_size out"
    masks = getattr(model_config, "return_sampling_mask", False)
    yield bool(masks), "sampling masks", "set return_sampling_mask to false"
    replay = getattr(model_config, "enable_trace_replay", False)
    yield bool(replay), "trace replay", "set enable_trace_replay to false"
    watermark = getattr(engine_args, "watermark_config", None)
    yield watermark is not None, "watermarking", "leave watermark_config out"
    bidirectional = getattr(model_config, "is_mm_prefix_lm", False)
    yield bool(bidirectional), "targets that attend to images in both directions", "serve this target without speculation"
