"""The target's hidden states as vLLM computes them, so that generating answers gives the features too.

`HiddenStateCapture` is a worker extension (`LLM(worker_extension_cls=...)`) for both of vLLM's model runners; it leans on this: a model's
forward returns the hidden states behind the final norm, and the rows of a step lie in the order of its `input_batch`; of models that
see, the forward is given `inputs_embeds`; those with `set_aux_hidden_state_layers` hand out, beside the hidden states, what goes into layers.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

EXTENSION = f"{__name__}.HiddenStateCapture"


class HiddenStateCapture:
    """Methods that vLLM adds to its worker; called through `LLM.collective_rpc`."""

    def start_capture(self, layers: Sequence[int] = ()) -> bool:
        """Keep the hidden states of every step from now on, and after them what goes into these layers of the target.

        The engine must run eagerly, without prefix caching. False where its model does not hand out what goes into them, and then
        nothing is kept.
        """
        runner, inputs, inner = self.model_runner, 0 in layers, sorted(set(layers) - {0})
        if inner:
            try:
                runner.model.set_aux_hidden_state_layers(tuple(inner))
            # Not the method of every model; nor does every language model inside a model have what it sets.
            except (AssertionError, AttributeError, KeyError):
                return False
        step: dict[str, Tensor] = {}
        self._captured: dict[str, list[tuple[int, Tensor]]] = {}

        def keep_inputs(module, args, kwargs):
            read = kwargs["inputs_embeds"]
            # An engine that is allowed no pictures hands over token ids. A copy: the layers' first sum may be written over it.
            step["read"] = module.embed_input_ids(kwargs["input_ids"]) if read is None else read.clone()

        def keep(module, args, told):
            hidden, others = told if inner else (told, ())
            into = dict(zip(inner, others))
            if inputs:
                into[0] = step["read"][: len(hidden)]
            step["told"] = torch.cat((hidden, *(into[layer] for layer in layers)), dim=-1) if layers else hidden
            # The runner was not told that there is more.
            return hidden

        if inputs:
            runner.model.register_forward_pre_hook(keep_inputs, with_kwargs=True)
        runner.model.register_forward_hook(keep)
        execute_model = runner.execute_model

        def execute_and_keep(scheduler_output, *args, **kwargs):
            result = execute_model(scheduler_output, *args, **kwargs)
            for request, place, first, end in _rows_of_step(runner, scheduler_output):
                self._captured.setdefault(request, []).append((place, step["told"][first:end].to("cpu", torch.bfloat16, copy=True)))
            return result

        runner.execute_model = execute_and_keep
        return True

    def write_captured(self, path: str) -> None:
        """Write what was kept as one safetensors file of [positions, (1 + layers) D] per request id, and forget it."""
        tensors = {}
        for request, pieces in self._captured.items():
            length = max(place + len(rows) for place, rows in pieces)
            tensors[request] = torch.zeros(length, pieces[0][1].shape[1], dtype=torch.bfloat16)
            for place, rows in pieces:
                tensors[request][place : place + len(rows)] = rows
        save_file(tensors, path)
        self._captured.clear()


def _rows_of_step(runner, scheduler_output) -> Iterator[tuple[str, int, int, int]]:
    """(request id, position of its first row, first row, end) of the step that just ran.

    Positions tell where rows belong: a preempted request computes its first ones again.
    """
    if hasattr(runner, "input_batch"):
        batch, scheduled = runner.input_batch, scheduler_output.num_scheduled_tokens
        counts = [scheduled.get(request, 0) for request in batch.req_ids]
        places = batch.num_computed_tokens_cpu[: len(counts)].tolist()
    elif runner.execute_model_state is None:
        # Model runner V2, and nothing was scheduled.
        return
    else:
        # There the host may not know yet how far a request is: the device does.
        batch = runner.execute_model_state.input_batch
        starts = torch.from_numpy(batch.query_start_loc_np[: batch.num_reqs])
        counts = batch.num_scheduled_tokens[: batch.num_reqs].tolist()
        places = batch.positions[starts.to(batch.positions.device)].tolist()
    row = 0
    for request, place, count in zip(batch.req_ids, places, counts):
        yield request, place, row, row + count
        row += count


def read_captured(path: Path) -> dict[str, Tensor]:
    """By the request id that `LLM` reports: vLLM appends a random part to it inside the engine."""
    return {request.split("-")[0]: rows for request, rows in load_file(path).items()}
