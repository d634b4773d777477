"""States of other layers than the target's last, for drafts that see them: by what vLLM has for EAGLE-3.

vLLM's models hand out, beside their final hidden states, what goes into layer i, the residual added: what transformers
calls hidden_states[i]. Behind the last layer the two differ (transformers norms what comes out): no draft names it.
"""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from vllm_specflash.compat import LAYER_NAMES
from vllm_specflash.config import SpecFlashError
from vllm_specflash.engine.hooks import require_engine_names


def check_target_tells(layers: Sequence[int] | None, model_config, folder: Path) -> None:
    """Refuse a draft that wants states of layers which its target lacks, or does not hand out.

    Raises:
        SpecFlashError: which of the two.
    """
    if not layers:
        return
    require_engine_names(LAYER_NAMES)
    # All models' module: drafts that see one layer have no use for it where a configuration is made.
    from vllm.model_executor.model_loader.utils import get_model_cls
    from vllm.model_executor.models.interfaces import supports_eagle3

    count = model_config.get_total_num_hidden_layers()
    beyond = [layer for layer in layers if not 0 <= layer < count]
    if beyond:
        raise SpecFlashError(
            f"The draft in {folder} wants the state of the target's layer {beyond[0]}, and {model_config.model} has "
            f"layers 0 to {count - 1}; use a draft trained for this target."
        )
    model = get_model_cls(model_config)
    if not supports_eagle3(model):
        raise _silent(model, folder)


def hand_out(target: nn.Module, layers: Sequence[int], folder: Path | str) -> None:
    """Have a loaded target return (hidden states, states of the layers), before anything compiles its forward.

    Raises:
        SpecFlashError: its class says that it can, and the language model inside it cannot, or not for these layers.
    """
    try:
        target.set_aux_hidden_state_layers(tuple(sorted(set(layers))))
        if 0 in layers:
            for module in target.modules():
                if getattr(module, "aux_hidden_state_layers", None):
                    _keep_embedding(module)
    except (AssertionError, AttributeError, KeyError) as error:
        raise _silent(type(target), folder) from error


def have_layers_told(runner) -> None:
    """The same for a model runner of ours that has loaded its target, if its draft sees several layers."""
    config = runner.speculative_config
    if config.target_layers:
        hand_out(runner.model, config.target_layers, config.specflash.model)
        runner.use_aux_hidden_state_outputs = True


def in_order(handed_out: Sequence[Tensor] | None, layers: Sequence[int] | None) -> list[Tensor]:
    """What a forward handed out, [T, D] by ascending layer and each once -> in the draft's order; [] without layers."""
    if not layers:
        return []
    ascending = sorted(set(layers))
    return [handed_out[ascending.index(layer)] for layer in layers]


def _keep_embedding(module: nn.Module) -> None:
    """The first layer's input is the residual that vLLM's norms add to, in place where they can: hand out a copy."""
    add = module._maybe_add_hidden_state

    def copied(states, layer, hidden_states, residual):
        return add(states, layer, hidden_states if layer else hidden_states.clone(), residual)

    module._maybe_add_hidden_state = copied


def _silent(model: type, folder: Path | str) -> SpecFlashError:
    return SpecFlashError(
        f"The draft in {folder} wants the states of several layers, and vLLM's {model.__name__} does not hand these "
        "out: train one without --target-layers."
    )
