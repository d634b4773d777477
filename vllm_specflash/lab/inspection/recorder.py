"""What happens in each step of one answer, seen from inside vLLM's worker.

vLLM mixes Recorder into its worker class when an engine is built with `worker_extension_cls=RECORDER`; it is reached by
collective_rpc and returns plain lists and numbers, in whichever process the worker lives.
"""

import time
from functools import wraps

import numpy as np
import torch

from vllm_specflash.draft.compressor import LatentCompressor
from vllm_specflash.engine.draft_model import visual_ranges
from vllm_specflash.engine.latents import SpanChunk
from vllm_specflash.lab.inspection.attention import Question, first_question

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
    """Wraps three methods of one model runner, and two of its draft side. Meant for one request at a time."""

    def __init__(self, runner):
        self._runner = runner
        # What the newest draft was made from.
        self._question: Question | None = None
        self._begin()
        runner.execute_model = self._around_step(runner.execute_model)
        runner.sample_tokens = self._around_sampling(runner.sample_tokens)
        runner.propose_draft_token_ids = self._around_draft(runner.propose_draft_token_ids)
        core, pooler = runner.drafter.core, runner.drafter.pooler
        core.propose = self._around_network(core.propose)
        pooler.rows = self._around_pooling(pooler.rows)

    def take(self) -> dict:
        compressor = self._runner.drafter.model.compressor
        taken = {"steps": self._steps, "spans": [span.finish(compressor) for span in self._spans.values()]}
        self._begin()
        return taken

    def _begin(self) -> None:
        self._steps: list[dict] = []
        # By the position that a picture begins at.
        self._spans: dict[int, _SpanRows] = {}

    def _around_step(self, execute_model):
        @wraps(execute_model)
        def wrapped(scheduler_output, *args, **kwargs):
            if not scheduler_output.total_num_scheduled_tokens:
                return execute_model(scheduler_output, *args, **kwargs)
            ((req_id, scheduled),) = scheduler_output.num_scheduled_tokens.items()
            drafted = list(scheduler_output.scheduled_spec_decode_tokens.get(req_id, ()))
            parents = self._runner.drafter.drafted(req_id, len(drafted)).parents[1:]
            step = {
                "scheduled": scheduled, "draft": _nodes(drafted, parents), "emitted": [], "draft_seconds": 0.0,
                "looks": self._looks(req_id) if drafted else None,
            }  # fmt: skip
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
        def wrapped(scheduler_output, sampled_token_ids, *args, **kwargs):
            began = time.perf_counter()
            try:
                return propose(scheduler_output, sampled_token_ids, *args, **kwargs)
            finally:
                step = self._steps[-1]
                step["draft_seconds"] = time.perf_counter() - began
                step["emitted"] = [int(token) for token in sampled_token_ids[0]]

        return wrapped

    def _around_network(self, propose):
        @wraps(propose)
        def wrapped(*args, **kwargs):
            with first_question() as asked:
                proposal = propose(*args, **kwargs)
            (self._question,) = asked
            return proposal

        return wrapped

    def _looks(self, req_id: str) -> list[list[float]] | None:
        """What the draft at hand attended to; asked before the step's clock starts and its rows reach the draft's cache."""
        if self._question is None:
            return None
        if self._runner.drafter.draft.config.pooling is None:
            return []
        return self._question.shares(visual_ranges(self._runner.requests[req_id].mm_features))

    def _around_pooling(self, rows):
        @wraps(rows)
        def wrapped(chunk: SpanChunk, *args, **kwargs):
            pooled = rows(chunk, *args, **kwargs)
            features = self._runner.requests[chunk.req_id].mm_features
            begin, length = next(r for r in visual_ranges(features) if r[0] <= chunk.start < r[0] + r[1])
            if chunk.first == begin:
                self._spans[begin] = _SpanRows(begin, begin + length, _grid(features, begin))
            self._spans[begin].add(chunk, pooled)
            return pooled

        return wrapped


class _SpanRows:
    """What the draft pools of one picture, as it comes: it may arrive over several steps, and be pooled in pieces."""

    def __init__(self, begin: int, end: int, grid: list[int] | None):
        self.begin, self.end, self.grid = begin, end, grid
        # By the position that a piece begins at.
        self._pieces: dict[int, list[torch.Tensor]] = {}

    def add(self, chunk: SpanChunk, rows: torch.Tensor) -> None:
        # A copy: they may be a view of what the next step overwrites.
        self._pieces.setdefault(chunk.start, []).append(rows.float().clone())

    def finish(self, compressor: LatentCompressor) -> dict:
        """The picture as record.py has it; a latent of one piece looks at no position of another."""
        pieces = [compressor.looks(torch.cat(rows)) for _, rows in sorted(self._pieces.items())]
        return {"begin": self.begin, "end": self.end, "grid": self.grid, "weights": torch.block_diag(*pieces).tolist()}


def _nodes(tokens: list[int], parents: np.ndarray) -> list[dict]:
    """Nodes of a draft, parents before children; -1 is the last committed token, which `parents` counts as node 0."""
    return [{"token": int(token), "parent": int(parent) - 1} for token, parent in zip(tokens, parents)]


def _grid(features: list, begin: int) -> list[int] | None:
    """Frames, rows and columns of patches of the span that begins there, if its processor says them (as Qwen2-VL's does)."""
    data = next((feature.data for feature in features if feature.mm_position.offset == begin), None)
    for name in ("image_grid_thw", "video_grid_thw"):
        if data is not None and name in data:
            return [int(size) for size in torch.as_tensor(data[name].data).flatten().tolist()]
    return None
