"""Run every kernel test and benchmark on this machine's GPU and write the figures as JSON.

    python -m vllm_specflash.triton_kernels.bench --out kernels.json [--tests tests/triton_kernels | --no-tests]

Every memory-bound figure stands beside the copy bandwidth measured in the same run, and beside the torch path and, where
one exists, the library's own attention (SDPA and FlexAttention over keys and values already gathered to dense tensors,
the gather not counted). Exits with 1 when a kernel test fails.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from . import _samples as samples
from .best_tree import best_tree_torch, best_tree_triton
from .commit_rows import commit_rows_torch, commit_rows_triton
from .draft_attention import draft_attention_torch, draft_attention_triton
from .keep_tree import keep_tree_torch, keep_tree_triton
from .kv_compact import kv_compact_torch, kv_compact_triton
from .latent_compress import latent_compress_torch, latent_compress_triton
from .observe_chances import observe_chances_torch, observe_chances_triton
from .pair_chances import pair_chances_torch, pair_chances_triton
from .rope_store import rope_store_torch, rope_store_triton
from .slot_queries import slot_queries_torch, slot_queries_triton
from .tree_accept import tree_accept_torch, tree_accept_triton
from .tree_attention import tree_attention_torch, tree_attention_triton, visible_nodes
from .tree_rows import tree_rows_torch, tree_rows_triton

DEVICE, DTYPE = "cuda", torch.bfloat16
REPEATS = 5


def milliseconds(function: Callable[[], object]) -> float:
    """Median of REPEATS medians, caches flushed between calls by Triton's own timer."""
    from triton.testing import do_bench

    return statistics.median(do_bench(function, return_mode="median") for _ in range(REPEATS))


def copy_ceiling() -> float:
    """GB/s of a device-to-device copy of 1 GiB, bytes read and bytes written counted."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    return 2 * source.numel() / milliseconds(lambda: target.copy_(source)) / 1e6


def on_cpu(thing):
    """The same arguments with all tensors in the host's memory."""
    if isinstance(thing, Tensor):
        return thing.cpu()
    if isinstance(thing, dict):
        return {name: on_cpu(value) for name, value in thing.items()}
    return type(thing)(*map(on_cpu, thing)) if isinstance(thing, tuple) else thing


def dense(cache: Tensor, args: dict) -> Tensor:
    """Keys or values of every request as [R, Hkv, L, Dh], for attention that knows no pages."""
    requests, pages = args["block_table"].shape
    length = int(args["context_lens"][0]) + args["max_num_nodes"]
    gathered = cache[args["block_table"].long()].view(requests, -1, *cache.shape[2:])[:, :length]
    return gathered.transpose(1, 2).contiguous()


def sdpa(args: dict) -> Callable[[], Tensor]:
    """The same tree through SDPA with a dense mask."""
    requests, nodes = args["context_lens"].shape[0], args["max_num_nodes"]
    key, value = dense(args["key_cache"], args), dense(args["value_cache"], args)
    query = args["query"].view(requests, nodes, *args["query"].shape[1:]).transpose(1, 2).contiguous()
    mask = torch.ones(requests, 1, nodes, key.shape[2], dtype=torch.bool, device=DEVICE)
    mask[..., -nodes:] = visible_nodes(args["ancestors"], nodes).view(requests, 1, nodes, nodes)
    return lambda: F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, scale=args["scale"], enable_gqa=key.shape[1] != query.shape[1]
    )


def flex(args: dict) -> Callable[[], Tensor]:
    """The same tree through a compiled FlexAttention, its block mask built beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    requests, nodes = args["context_lens"].shape[0], args["max_num_nodes"]
    key, value = dense(args["key_cache"], args), dense(args["value_cache"], args)
    query = args["query"].view(requests, nodes, *args["query"].shape[1:]).transpose(1, 2).contiguous()
    context, length = key.shape[2] - nodes, key.shape[2]
    seen = visible_nodes(args["ancestors"], nodes).view(requests, nodes, nodes)

    def visible(batch, head, q, k):
        return (k < context) | seen[batch, q, (k - context).clamp_min(0)]

    mask = create_block_mask(visible, requests, None, nodes, length, device=DEVICE)
    compiled = torch.compile(flex_attention)
    gqa = key.shape[1] != query.shape[1]
    return lambda: compiled(query, key, value, block_mask=mask, scale=args["scale"], enable_gqa=gqa)


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
            "keep_tree": (keep_tree_triton, keep_tree_torch, samples.keep_tree_inputs(requests, 5, 32, nodes, DEVICE)),
        }  # fmt: skip
        for op, (ours, torch_path, args) in ops.items():
            # Some torch paths walk lists on the host: all are measured where the tensors are the host's.
            ms, on_host = milliseconds(lambda: ours(**args)), on_cpu(args)
            torch_ms = milliseconds(lambda: torch_path(**on_host))
            rows.append(dict(op=op, case=f"{requests} x {nodes} nodes", ms=ms, torch_ms=torch_ms))
    return rows


def run_tests(folder: Path) -> dict:
    """Outcome of the folder's tests, kernels on the GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "."]
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    counts = {word: int(number) for number, word in re.findall(r"(\d+) (passed|failed|error|skipped)", run.stdout)}
    if run.returncode:
        print(run.stdout[-8000:], file=sys.stderr)
    return dict(returncode=run.returncode, **counts)


def with_rates(row: dict, ceiling: float) -> dict:
    """Add GB/s beside the ceiling and TFLOP/s to a row that counts bytes and operations."""
    if "bytes" in row:
        row["gb_per_s"] = row["bytes"] / row["ms"] / 1e6
        row["of_copy_ceiling"] = row["gb_per_s"] / ceiling
    if "flops" in row:
        row["tflop_per_s"] = row["flops"] / row["ms"] / 1e9
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("kernels.json"))
    # The package sits beside tests/ in a checkout; an installation without sources has no tests to run.
    parser.add_argument("--tests", type=Path, default=Path(__file__).resolve().parent.parent / "tests" / "triton_kernels")
    parser.add_argument("--no-tests", dest="tests", action="store_const", const=None)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("The kernel benchmark needs a CUDA GPU and a torch built for it: run it on a machine that has both.")
    import triton

    tests = run_tests(options.tests) if options.tests is not None else None
    ceiling = copy_ceiling()
    rows = []
    benches = (
        bench_tree_attention, bench_draft_attention, bench_best_tree, bench_latent_compress, bench_tree_accept, bench_kv_compact,
        bench_rope_store, bench_bookkeeping,
    )  # fmt: skip
    for bench in benches:
        for row in bench():
            row = with_rates(row, ceiling)
            rows.append(row)
            share = f"{row['of_copy_ceiling']:6.1%} of copy" if "of_copy_ceiling" in row else ""
            print(f"{row['op']:16} {row['case']:55} {row['ms'] * 1e3:9.1f} us  {share:15} torch {row['torch_ms'] * 1e3:9.1f} us")
    result = dict(
        device=torch.cuda.get_device_name(),
        torch=torch.__version__,
        triton=triton.__version__,
        dtype=str(DTYPE),
        copy_gb_per_s=ceiling,
        tests=tests,
        rows=rows,
    )
    options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"copy ceiling {ceiling:.0f} GB/s; tests {tests}; written to {options.out}")
    return 1 if tests and tests["returncode"] else 0


if __name__ == "__main__":
    sys.exit(main())
