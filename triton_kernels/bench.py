"""Run every kernel test and benchmark on this machine's GPU and write the figures as JSON.

    python -m vllm_specflash.triton_kernels.bench --out kernels.json [--tests tests/triton_kernels | --no-tests]

Every memory-bound figure stands beside the copy bandwidth measured in the same run, and beside the torch path and, where
one exists, the library's own attention (SDPA and FlexAttention over keys and values already gathered to dense tensors,
the gather not counted). Exits with 1 when a kernel test fails.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import torch

from ._bench_cases import BENCHES, DTYPE
from ._timing import copy_ceiling


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
    for bench in BENCHES:
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
