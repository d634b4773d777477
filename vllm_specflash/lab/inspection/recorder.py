"""What happens in each step of one answer, seen from inside vLLM's worker.

vLLM mixes Recorder into its worker class when an engine is built with `worker_extension_cls=RECORDER`; it is reached by
collective_rpc and returns plain lists and numbers, in whichever process the worker lives.
"""

import time
from functools import wraps

import numpy as np
import torch

from vllm_specflash.engine.spans import VISUAL

RECORDER = "vllm_specflash.lab.inspection.recorder.Recorder"


class Recorder:
    """Methods added to a vLLM worker whose model runner is ours."""

    def inspect_install(self) -> None:
        """Record every step from now on."""
        self._inspect_tape = _Tape(self.model_runner)

    def inspect_take(self) -> dict:
        """`steps` and `spans` since the last call, as record.py's Step and Span in dict form."""
        return self._inspect_tape.take()


class _Tape:
    """Wraps three methods of one model runner. Meant for one request at a time."""

    def __init__(self, runner):
        self._runner = runner
        self._begin()
        runner.execute_model = self._around_step(runner.execute_model)
        runner.sample_tokens = self._around_sampling(runner.sample_tokens)
        runner.propose_draft_token_ids = self._around_draft(runner.propose_draft_token_ids)

    def take(self) -> dict:
        taken = {"steps": self._steps, "spans": [span.finish(self._queries()) for span in self._spans.values()]}
        self._begin()
        return taken

    def _begin(self) -> None:
        self._steps: list[dict] = []
        self._spans: dict[tuple[int, int], _SpanRows] = {}

    def _queries(self) -> torch.Tensor:
        return self._runner.drafter.model.compressor.queries

    def _around_step(self, execute_model):
        @wraps(execute_model)
        def wrapped(scheduler_output, *args, **kwargs):
            if not scheduler_output.total_num_scheduled_tokens:
                return execute_model(scheduler_output, *args, **kwargs)
            ((req_id, scheduled),) = scheduler_output.num_scheduled_tokens.items()
            drafted = list(scheduler_output.scheduled_spec_decode_tokens.get(req_id, ()))
            parents = self._runner.drafter.drafted(req_id, len(drafted)).parents[1:]
            step = {"scheduled": scheduled, "draft": _nodes(drafted, parents), "emitted": [], "draft_seconds": 0.0}
            self._steps.append(step)
            began = time.perf_counter()
            try:
                return execute_model(scheduler_output, *args, **kwargs)
            finally:
                step["target_seconds"] = time.perf_counter() - began

        return wrapped

    def _around_sampling(self, sample_tokens):
        """Sampling counts as the target's; vLLM calls the draft from inside it."""

        @wraps(sample_tokens)
        def wrapped(*args, **kwargs):
            began = time.perf_counter()
            try:
                return sample_tokens(*args, **kwargs)
            finally:
                if self._steps:
                    step = self._steps[-1]
                    step["target_seconds"] += time.perf_counter() - began - step["draft_seconds"]

        return wrapped

    def _around_draft(self, propose):
        @wraps(propose)
        def wrapped(scheduler_output, sampled_token_ids, sampling_metadata, hidden_states, *args, **kwargs):
            began = time.perf_counter()
            try:
                return propose(scheduler_output, sampled_token_ids, sampling_metadata, hidden_states, *args, **kwargs)
            finally:
                step = self._steps[-1]
                step["draft_seconds"] = time.perf_counter() - began
                step["emitted"] = [int(token) for token in sampled_token_ids[0]]
                self._keep_spans(step["scheduled"], hidden_states)

        return wrapped

    def _keep_spans(self, scheduled: int, hidden_states: torch.Tensor) -> None:
        """Copy the hidden states of this step's visual tokens: a span may arrive over several steps."""
        batch = self._runner.input_batch
        first = int(batch.num_computed_tokens_cpu[0])
        for feature in self._runner.requests[batch.req_ids[0]].mm_features:
            if feature.modality not in VISUAL:
                continue
            begin, end = feature.mm_position.offset, feature.mm_position.offset + feature.mm_position.length
            rows = hidden_states[max(begin, first) - first : max(0, min(end, first + scheduled) - first)]
            if len(rows):
                self._spans.setdefault((begin, end), _SpanRows(begin, end, _grid(feature))).add(rows)


class _SpanRows:
    """Hidden states of one visual span, as they come."""

    def __init__(self, begin: int, end: int, grid: list[int] | None):
        self.begin, self.end, self.grid = begin, end, grid
        self._chunks: list[torch.Tensor] = []

    def add(self, rows: torch.Tensor) -> None:
        self._chunks.append(rows.float().cpu())

    def finish(self, queries: torch.Tensor) -> dict:
        """The span with what each of its M latents weighs each of its N tokens, [M, N]: softmax(A F^T)."""
        features = torch.cat(self._chunks)
        latents = queries.float().cpu()[: len(features)]
        weights = torch.softmax(latents @ features.T, dim=-1)
        return {"begin": self.begin, "end": self.end, "grid": self.grid, "weights": weights.tolist()}


def _nodes(tokens: list[int], parents: np.ndarray) -> list[dict]:
    """Nodes of a draft, parents before children; -1 is the last committed token, which `parents` counts as node 0."""
    return [{"token": int(token), "parent": int(parent) - 1} for token, parent in zip(tokens, parents)]


def _grid(feature) -> list[int] | None:
    """Frames, rows and columns of patches where the processor says them (Qwen2-VL and its kin)."""
    data = getattr(feature, "data", None)
    for name in ("image_grid_thw", "video_grid_thw"):
        if data is not None and name in data:
            return [int(size) for size in torch.as_tensor(data[name].data).flatten().tolist()]
    return None
