"""What a draft that sees several layers asks of its target (engine/target_layers.py)."""

from vllm_specflash.compat.name import Name

LAYER_NAMES = (
    Name("vllm.model_executor.model_loader.utils", "get_model_cls", ("model_config",)),
    Name("vllm.model_executor.models.interfaces", "supports_eagle3", ("model",)),
    Name("vllm.model_executor.models.interfaces", "SupportsEagle3.set_aux_hidden_state_layers", ("layers",)),
    Name("vllm.model_executor.models.interfaces", "EagleModelMixin", attributes=("aux_hidden_state_layers",)),
    Name(
        "vllm.model_executor.models.interfaces", "EagleModelMixin._maybe_add_hidden_state",
        ("aux_hidden_states", "layer_idx", "hidden_states", "residual"),
    ),
)  # fmt: skip
