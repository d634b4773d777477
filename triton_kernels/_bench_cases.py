"""What the benchmark measures: every op at serving shapes, one function per op, a row per shape.

A row has `op`, `case`, `ms` and `torch_ms`, and where they are counted the least `bytes` moved and the `flops`.
"""

import torch
from torch import Tensor

from . import _copy_samples as copy_samples
from . import _samples as samples
from ._dense import flex, sdpa
from ._timing import DEVICE, milliseconds
from .best_tree import best_tree_torch, best_tree_triton
from .commit_rows import commit_rows_torch, commit_rows_triton
from .draft_attention import draft_attention_torch, draft_attention_triton
from .find_copies import find_copies_torch, find_copies_triton
from .keep_tree import keep_tree_torch, keep_tree_triton
from .kv_compact import kv_compact_torch, kv_compact_triton
from .latent_compress import latent_compress_torch, latent_compress_triton
from .mix_copies import mix_copies_torch, mix_copies_triton
from .observe_chances import observe_chances_torch, observe_chances_triton
from .pair_chances import pair_chances_torch, pair_chances_triton
from .rope_store import rope_store_torch, rope_store_triton
from .slot_queries import slot_queries_torch, slot_queries_triton
from .tree_accept import tree_accept_torch, tree_accept_triton
from .tree_attention import tree_attention_torch, tree_attention_triton
from .tree_rows import tree_rows_torch, tree_rows_triton

DTYPE = torch.bfloat16


def on_cpu(thing):
    """The same arguments with all tensors in the host's memory."""
    if isinstance(thing, Tensor):
        return thing.cpu()
    if isinstance(thing, dict):
        return {name: on_cpu(value) for name, value in thing.items()}
    return type(thing)(*map(on_cpu, thing)) if isinstance(thing, tuple) else thing


def attention_bytes(args: dict, keys: int) -> int:
    """Least traffic: every visible key and value once, queries in and results out."""
    cache = args["key_cache"]
    return 2 * keys * cache.shape[2 if cache.dim() == 4 else 1] * cache.shape[-1] * 2 + 2 * args["query"].numel() * 2


def bench_tree_attention() -> list[dict]:
    rows = []
    for heads, requests, nodes, context in (
        (samples.QWEN, 1, 16, 32768),
        (samples.QWEN, 1, 64, 32768),
        (samples.QWEN, 1, 16, 2048),
        (samples.QWEN, 8, 16, 4096),
        (samples.QWEN, 64, 16, 4096),
        (samples.LLAVA, 1, 16, 2048),
        (samples.LLAVA, 16, 32, 2048),
        (samples.WIDE, 16, 16, 4096),
    ):
        args = samples.tree_attention_inputs(heads, requests, nodes, context, 16, DTYPE, DEVICE)
        plain = {name: value for name, value in args.items() if not name.startswith("max_")}
        keys = requests * (context + nodes)
        rows.append(
            dict(
                op="tree_attention",
                case=f"{heads.name}, {requests} x {nodes} nodes, context {context}",
                ms=milliseconds(lambda: tree_attention_triton(**args)),
                bytes=attention_bytes(args, keys),
                flops=4 * nodes * keys * heads.num_heads * heads.head_dim,
                torch_ms=milliseconds(lambda: tree_attention_torch(**plain)),
                sdpa_ms=milliseconds(sdpa(args)),
                flex_ms=milliseconds(flex(args)),
            )
        )
    return rows


def bench_draft_attention() -> list[dict]:
    rows = []
    for heads, requests, visible, spans, extra in (
        (samples.QWEN, 1, 512, 0, 0),
        (samples.QWEN, 1, 16384, 2, 5),
        (samples.QWEN, 64, 2048, 2, 5),
        (samples.LLAVA, 16, 2048, 1, 0),
    ):
        args = samples.draft_attention_inputs(heads, requests, visible, spans, extra, DTYPE, DEVICE)
        keys = requests * (visible + extra)
        rows.append(
            dict(
                op="draft_attention",
                case=f"{heads.name}, {requests} x {visible} positions, {spans} spans, {extra} in memory",
                ms=milliseconds(lambda: draft_attention_triton(**args)),
                bytes=attention_bytes(args, keys),
                flops=4 * keys * heads.num_heads * heads.head_dim,
                torch_ms=milliseconds(lambda: draft_attention_torch(**args)),
            )
        )
    return rows


def bench_best_tree() -> list[dict]:
    rows = []
    for requests, nodes in ((1, 7), (64, 16), (256, 16), (64, 63)):
        args = samples.best_tree_inputs(requests, 7, 32, nodes, DEVICE)
        on_host = on_cpu(args)
        rows.append(
            dict(
                op="best_tree",
                case=f"{requests} x {nodes} nodes, 7 deep, 32 candidates",
                ms=milliseconds(lambda: best_tree_triton(**args)),
                torch_ms=milliseconds(lambda: best_tree_torch(**on_host)),
            )
        )
    return rows


def bench_latent_compress() -> list[dict]:
    rows = []
    for latents, size, spans, length in ((64, 4096, 1, 576), (64, 4096, 16, 576), (64, 3584, 8, 2048), (16, 576, 8, 64)):
        args = samples.latent_compress_inputs(latents, size, spans, length, DTYPE, DEVICE)
        state = args["state"]
        rows.append(
            dict(
                op="latent_compress",
                case=f"{latents} latents, D {size}, {spans} spans of {length}",
                ms=milliseconds(lambda: latent_compress_triton(**args)),
                bytes=args["hidden"].numel() * 2 + args["queries"].numel() * 4 + 8 * sum(part.numel() for part in state),
                flops=4 * latents * size * spans * length,
                torch_ms=milliseconds(lambda: latent_compress_torch(**args)),
            )
        )
    return rows


def bench_tree_accept() -> list[dict]:
    rows = []
    for requests, nodes in ((1, 16), (64, 64), (256, 16)):
        args = samples.tree_accept_inputs(requests, nodes, DEVICE)
        ours, torch_path = (milliseconds(lambda op=op: op(**args)) for op in (tree_accept_triton, tree_accept_torch))
        rows.append(dict(op="tree_accept", case=f"{requests} x {nodes} nodes", ms=ours, torch_ms=torch_path))
    return rows


def bench_kv_compact() -> list[dict]:
    rows = []
    for heads, layers, requests, accepted in ((samples.QWEN, 28, 1, 4), (samples.QWEN, 28, 64, 4), (samples.LLAVA, 32, 32, 5)):
        args = samples.kv_compact_inputs(heads, layers, requests, accepted, 16, DTYPE, DEVICE)
        row_bytes = heads.num_kv_heads * heads.head_dim * 2
        rows.append(
            dict(
                op="kv_compact",
                case=f"{heads.name}, {layers} layers, {requests} x {accepted} rows",
                ms=milliseconds(lambda: kv_compact_triton(**args)),
                bytes=2 * row_bytes * 2 * layers * requests * accepted,
                torch_ms=milliseconds(lambda: kv_compact_torch(**args)),
            )
        )
    return rows


def bench_rope_store() -> list[dict]:
    rows = []
    for heads, requests, each in ((samples.QWEN, 1, 17), (samples.QWEN, 64, 17), (samples.LLAVA, 1, 2048)):
        args = samples.rope_store_inputs(heads, requests, DTYPE, DEVICE, each)
        keys_and_values = 2 * requests * each * heads.num_kv_heads * heads.head_dim
        queries = requests * heads.num_heads * heads.head_dim
        rows.append(
            dict(
                op="rope_store",
                case=f"{heads.name}, {requests} x {each} rows",
                ms=milliseconds(lambda: rope_store_triton(**args)),
                bytes=2 * 2 * (keys_and_values + queries),
                torch_ms=milliseconds(lambda: rope_store_torch(**args)),
            )
        )
    return rows


def bench_bookkeeping() -> list[dict]:
    """What keeps a step's tables: next to no traffic, so that a launch's own time is all there is to see."""
    rows = []
    for requests, nodes in ((1, 7), (64, 16), (256, 16)):
        chance, delta = torch.rand(requests, 5, 32, device=DEVICE), torch.zeros(requests, 4, 32, 32, dtype=DTYPE, device=DEVICE)
        pairs = dict(chance=chance, delta=delta)
        ops = {
            "tree_rows": (tree_rows_triton, tree_rows_torch, samples.tree_rows_inputs(requests, nodes + 1, DEVICE)),
            "observe_chances": (
                observe_chances_triton, observe_chances_torch, samples.observe_chances_inputs(requests, nodes + 1, DEVICE)
            ),
            "commit_rows": (commit_rows_triton, commit_rows_torch, samples.commit_rows_inputs(requests, nodes + 1, True, DEVICE)),
            "slot_queries": (slot_queries_triton, slot_queries_torch, samples.slot_queries_inputs(2 * requests, 32, 8192, DEVICE)),
            "pair_chances": (pair_chances_triton, pair_chances_torch, pairs),
            "find_copies": (
                find_copies_triton, find_copies_torch, copy_samples.find_copies_inputs(requests, 8192, nodes, DEVICE)
            ),
            "mix_copies": (mix_copies_triton, mix_copies_torch, copy_samples.mix_copies_inputs(requests, 5, 32, nodes, DEVICE)),
            "keep_tree": (keep_tree_triton, keep_tree_torch, samples.keep_tree_inputs(requests, 5, 32, nodes, DEVICE)),
        }  # fmt: skip
        for op, (ours, torch_path, args) in ops.items():
            # Some torch paths walk lists on the host: all are measured where the tensors are the host's.
            ms, on_host = milliseconds(lambda: ours(**args)), on_cpu(args)
            torch_ms = milliseconds(lambda: torch_path(**on_host))
            rows.append(dict(op=op, case=f"{requests} x {nodes} nodes", ms=ms, torch_ms=torch_ms))
    return rows


BENCHES = (
    bench_tree_attention, bench_draft_attention, bench_best_tree, bench_latent_compress, bench_tree_accept, bench_kv_compact,
    bench_rope_store, bench_bookkeeping,
)  # fmt: skip
