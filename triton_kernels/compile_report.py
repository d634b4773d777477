"""Compile every kernel at its shipped configurations for GPUs that need not be there, and write what they use.

    python -m vllm_specflash.triton_kernels.compile_report [--write docs/kernels.md] [--arch 80 90 100] [--only TEXT ...]

The launchers run as they are, on small CPU tensors (_compiling.py): what is compiled is what would be launched,
specialisations included. Exits with 1 when a kernel spills registers or asks for more shared memory than the chip gives one
block.
"""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from . import _copy_samples as copy_samples
from . import _samples as samples
from ._compiling import SHARED_LIMIT, compiling_for, resources
from .best_tree import best_tree_triton
from .commit_rows import commit_rows_triton
from .draft_attention import draft_attention_triton
from .find_copies import find_copies_triton
from .keep_tree import keep_tree_triton
from .kv_compact import kv_compact_triton
from .latent_compress import latent_compress_triton
from .mix_copies import mix_copies_triton
from .observe_chances import observe_chances_triton
from .pair_chances import pair_chances_triton
from .rope_store import rope_store_triton
from .slot_queries import slot_queries_triton
from .tree_accept import tree_accept_triton
from .tree_attention import tree_attention_triton
from .tree_rows import tree_rows_triton

BEGIN, END = "<!-- compile report -->", "<!-- end of compile report -->"


@dataclass(frozen=True)
class Usage:
    """What one kernel in one configuration uses on one architecture."""

    kernel: str
    case: str
    arch: int
    registers: int
    spill_bytes: int
    shared_bytes: int
    warps: int

    @property
    def fits(self) -> bool:
        return self.spill_bytes == 0 and self.shared_bytes <= SHARED_LIMIT[self.arch]


def cases() -> dict[str, Callable[[], object]]:
    """Launches that together reach every configuration the launchers choose between."""
    half, single = torch.bfloat16, torch.float32
    out = {}

    def tree(name, heads, nodes, dtype, splits):
        args = samples.tree_attention_inputs(heads, 1, nodes, 96, 16, dtype, "cpu")
        out[name] = lambda: tree_attention_triton(**args, num_splits=splits)

    def draft(name, heads, spans, extra, dtype, splits):
        args = samples.draft_attention_inputs(heads, 2, 96, spans, extra, dtype, "cpu")
        out[name] = lambda: draft_attention_triton(**args, num_splits=splits)

    def compress(name, latents, size, dtype):
        args = samples.latent_compress_inputs(latents, size, 2, 64, dtype, "cpu")
        out[name] = lambda: latent_compress_triton(**args)

    def compact(name, heads):
        args = samples.kv_compact_inputs(heads, 2, 2, 3, 16, half, "cpu")
        out[name] = lambda: kv_compact_triton(**args)

    tree("head 128, 16 nodes x 7, fp16, split", samples.QWEN, 16, torch.float16, 4)
    for label, dtype in (("bf16", half), ("fp32", single)):
        tree(f"head 64, 64 nodes x 3, {label}", samples.SMOL, 64, dtype, 1)
        tree(f"head 256, 64 nodes x 2, {label}", samples.WIDE, 64, dtype, 1)
        tree(f"head 128, 16 nodes x 7, {label}, split", samples.QWEN, 16, dtype, 4)
    tree("head 128, 32 nodes x 1, bf16", samples.LLAVA, 32, half, 1)
    tree("head 128, 64 nodes x 1, bf16", samples.LLAVA, 64, half, 1)
    tree("head 128, 1 node x 1, bf16, split", samples.LLAVA, 1, half, 4)
    tree("head 64, 4 nodes x 3, bf16, split", samples.SMOL, 4, half, 4)
    tree("head 64, 8 nodes x 3, bf16, split", samples.SMOL, 8, half, 4)
    tree("head 256, 8 nodes x 2, bf16, split", samples.WIDE, 8, half, 4)
    for label, dtype in (("bf16", half), ("fp32", single)):
        draft(f"head 128 x 7, 4 spans, 5 in memory, {label}, split", samples.QWEN, 4, 5, dtype, 4)
        draft(f"head 128 x 7, 4 spans, {label}", samples.QWEN, 4, 0, dtype, 1)
        draft(f"head 128 x 7, 40 spans, 5 in memory, {label}", samples.QWEN, 40, 5, dtype, 1)
        draft(f"head 64 x 3, text, {label}, split", samples.SMOL, 0, 0, dtype, 4)
        draft(f"head 128 x 40, 8 spans, 5 in memory, {label}, split", samples.FALCON, 8, 5, dtype, 4)
        draft(f"head 256 x 2, 8 spans, 5 in memory, {label}", samples.WIDE, 8, 5, dtype, 1)
    for label, dtype in (("bf16", half), ("fp32", single)):
        compress(f"64 latents, D 4096, {label}", 64, 4096, dtype)
        compress(f"16 latents, D 576, {label}", 16, 576, dtype)
    for nodes, candidates in ((7, 32), (16, 32), (63, 32), (63, 128)):
        search = samples.best_tree_inputs(2, 7, candidates, nodes, "cpu")
        out[f"{nodes} nodes, {candidates} candidates"] = lambda search=search: best_tree_triton(**search)
    verified_rows = samples.tree_rows_inputs(3, 16, "cpu")
    out["rows of 3 x 16 nodes"] = lambda: tree_rows_triton(**verified_rows)
    for label, verified in (("verified", True), ("none verified", False)):
        commit = samples.commit_rows_inputs(3, 16, verified, "cpu")
        out[f"16 rows, {label}"] = lambda commit=commit: commit_rows_triton(**commit)
    walk = samples.tree_accept_inputs(2, 64, "cpu")
    out["walk of 64 nodes"] = lambda: tree_accept_triton(**walk)
    compact("head 128 x 4, bf16", samples.QWEN)
    compact("head 64 x 3, bf16", samples.SMOL)
    for heads in (samples.QWEN, samples.SMOL, samples.WIDE):
        rows = samples.rope_store_inputs(heads, 2, half, "cpu")
        out[f"rope, head {heads.head_dim}"] = lambda rows=rows: rope_store_triton(**rows)
    out["pairs of 32 candidates"] = lambda: pair_chances_triton(torch.rand(2, 5, 32), torch.zeros(2, 4, 32, 32, dtype=half))
    for nodes in (16, 63):
        kept = samples.keep_tree_inputs(2, 5, 32, nodes, "cpu")
        out[f"{nodes} nodes kept"] = lambda kept=kept: keep_tree_triton(**kept)
        verdict = samples.observe_chances_inputs(3, nodes + 1, "cpu")
        out[f"{nodes} nodes decided on"] = lambda verdict=verdict: observe_chances_triton(**verdict)
    asking = samples.slot_queries_inputs(64, 32, 2048, "cpu")
    out["64 requests ask"] = lambda: slot_queries_triton(**asking)
    texts, mixed = copy_samples.find_copies_inputs(2, 3000, 16, "cpu"), copy_samples.mix_copies_inputs(2, 5, 32, 16, "cpu")
    out["copies of 16 tokens"] = lambda: find_copies_triton(**texts)
    out["copies among 32 candidates"] = lambda: mix_copies_triton(**mixed)
    return out


def report(archs: list[int], only: Sequence[str] = ("",)) -> list[Usage]:
    """Usage of every kernel, in the cases whose name holds one of those texts; a configuration once per architecture."""
    usages, seen = [], set()
    for arch in archs:
        for case, launch in cases().items():
            if not any(text in case for text in only):
                continue
            with compiling_for(arch) as compiled:
                launch()
            for kernel, binary in compiled:
                if (arch, binary.metadata.hash) in seen:
                    continue
                seen.add((arch, binary.metadata.hash))
                registers, spilled = resources(binary.asm["cubin"])
                usages.append(
                    Usage(kernel, case, arch, registers, spilled, binary.metadata.shared, binary.metadata.num_warps)
                )
    return usages


def table(usages: list[Usage]) -> str:
    """Markdown: one line per kernel and case, one column per architecture."""
    archs = sorted({usage.arch for usage in usages})
    lines = [
        "| kernel | case | warps | " + " | ".join(f"sm_{arch}" for arch in archs) + " |",
        "| --- | --- | --- | " + " | ".join("---" for _ in archs) + " |",
    ]
    rows: dict[tuple[str, str, int], dict[int, Usage]] = {}
    for usage in usages:
        rows.setdefault((usage.kernel, usage.case, usage.warps), {})[usage.arch] = usage
    for (kernel, case, warps), by_arch in sorted(rows.items()):
        cells = (by_arch.get(arch) for arch in archs)
        figures = (f"{u.registers} / {u.spill_bytes} / {u.shared_bytes / 1024:.1f}" if u else "" for u in cells)
        lines.append(f"| {kernel} | {case} | {warps} | " + " | ".join(figures) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=sorted(SHARED_LIMIT), choices=sorted(SHARED_LIMIT))
    parser.add_argument("--write", type=Path, help=f"Markdown file whose part between '{BEGIN}' and '{END}' is replaced")
    parser.add_argument("--only", nargs="+", default=[""], help="compile only cases whose name holds one of these texts")
    options = parser.parse_args()
    import triton

    # One line per kernel about a default of Triton's next release.
    warnings.filterwarnings("ignore", message="TRITON_DEFAULT_FP_FUSION")
    usages = report(options.arch, options.only)
    text = f"Triton {triton.__version__}; registers per thread / spilled bytes / shared memory in KiB.\n\n{table(usages)}"
    print(text)
    if options.write:
        page = options.write.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    failures = [usage for usage in usages if not usage.fits]
    for usage in failures:
        print(f"does not fit: {usage}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
