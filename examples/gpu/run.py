"""Put together what pack.py packed, on the GPU machine, and run the kernels, the engine's tests and its benchmarks there.

    python examples/gpu/run.py receive ROUND_FOLDER      once per round, in any order
    python examples/gpu/run.py run --out RESULTS         writes RESULTS/gpu.json and what it was made of

Needs no network. Every step is a process of its own with a time limit; a failed one is recorded, and the others still run. Exits
with 1 if any failed.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = Path(os.environ.get("SPECFLASH_KIT", "/tmp/specflash-kit"))
PIECE = re.compile(r"kit-(?P<digest>[0-9a-f]{16})-(?P<number>\d+)-of-(?P<count>\d+)")
# All engines alike: the kit has no flash-attention libraries.
TRITON = {"attention_backend": "TRITON_ATTN", "mm_encoder_attn_backend": "TORCH_SDPA"}
# On Model Runner V2 both are the default where the method allows them; here an engine that goes without must not start.
ASYNCHRONOUS = TRITON | {"async_scheduling": True}
TREES = 'specflash={"method": "specflash", "tree": true}'
CHAINS = 'chains={"method": "specflash", "tree": false}'
# Made up, falling as drafts of five tokens do: what the engine itself allows.
CHANCES = "0.8,0.62,0.47,0.35,0.26"
# A head for vLLM's own EAGLE-3 on the same target, where somebody has one: a folder.
EAGLE3 = os.environ.get("SPECFLASH_EAGLE3")
RESULTS = ("kernels", "launches", "host_work", "identity", "bench", "peers", "synthetic")
# Of what a failed step printed last.
TAIL = 4000


@dataclass
class Step:
    """One process.

    Attributes:
        command: after `python`.
        folder: it runs in, never the repository's root (its triton_kernels/ would be taken for another package).
        seconds: its limit.
        environment: besides the kit's.
    """

    name: str
    command: list[str]
    folder: Path
    seconds: int
    environment: dict[str, str]


@dataclass
class Outcome:
    name: str
    returncode: int | None
    seconds: float
    tail: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    receiving = actions.add_parser("receive")
    receiving.add_argument("round", type=Path, nargs="+")
    running = actions.add_parser("run")
    running.add_argument("--out", type=Path, default=Path("gpu-results"))
    running.add_argument("--only", nargs="*", default=[], help="names of steps, where not all fit into one call")
    options = parser.parse_args()
    if options.action == "receive":
        print(receive([piece for folder in options.round for piece in sorted(folder.iterdir())], KIT))
    else:
        sys.exit(run(options.out.resolve(), options.only))


def receive(pieces: list[Path], kit: Path) -> str:
    """Keep pieces, and unpack once all are there; says what is missing, or what there is.

    Raises:
        ValueError: the pieces do not add up.
    """
    store = kit / "pieces"
    store.mkdir(parents=True, exist_ok=True)
    for piece in pieces:
        if PIECE.fullmatch(piece.name):
            shutil.copyfile(piece, store / piece.name)
    there = {int(found["number"]): found for path in store.iterdir() if (found := PIECE.fullmatch(path.name))}
    if len({(found["digest"], found["count"]) for found in there.values()}) != 1:
        raise ValueError(f"{store} holds pieces of {len(there) and 'different packings' or 'no packing'}: empty it and begin again.")
    first = next(iter(there.values()))
    missing = sorted(set(range(1, int(first["count"]) + 1)) - set(there))
    if missing:
        return f"still to come: rounds {', '.join(map(str, missing))} of {first['count']}"
    archive = kit / "kit.tar.xz"
    with archive.open("wb") as whole:
        for number in sorted(there):
            whole.write((store / there[number].string).read_bytes())
    if hashlib.sha256(archive.read_bytes()).hexdigest()[:16] != first["digest"]:
        raise ValueError(f"The pieces in {store} do not add up to what was packed: bring them again.")
    with tarfile.open(archive) as tar:
        tar.extractall(kit / "site", filter="data")
    return f"all {first['count']} rounds are there; unpacked to {kit / 'site'}"


def steps(out: Path) -> Iterator[Step]:
    """In the order of what depends on what; the quick ones first."""
    plain = {"VLLM_LOGGING_LEVEL": "INFO"}
    # Triton multiplies float32 in TF32 unless told otherwise, and then plain vLLM differs from itself.
    exact = {"TRITON_F32_DEFAULT": "ieee", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    # vLLM then raises where a step of its runner waits for the device.
    checked = {"VLLM_GPU_SYNC_CHECK": "error"}
    tests = ["-m", "pytest", "-q", "--import-mode=importlib", "-p", "no:cacheprovider", "--rootdir", str(ROOT)]
    tests += ["-c", str(ROOT / "pyproject.toml")]
    yield Step("kernels", ["-m", "vllm_specflash.triton_kernels.bench", "--out", str(out / "kernels.json"),
                           "--tests", str(ROOT / "tests" / "triton_kernels")], out, 540, plain)  # fmt: skip
    for name in ("launches", "host_work"):
        yield Step(name, ["-m", f"vllm_specflash.lab.bench.{name}", "--out", str(out / f"{name}.json")], out, 300, plain)
    yield Step("engine", [*tests, str(ROOT / "tests" / "v2")], out, 900, exact | checked)
    specflash = ["-m", "vllm_specflash.cli"]
    arguments = ["--target", "smollm2", "--data", str(ROOT / "examples" / "data")]
    ours = [*arguments, "--engine-args", json.dumps(ASYNCHRONOUS)]
    sizes = ["--batch-size", "1", "--batch-size", "16"]
    yield Step("identity", [*specflash, "identity", *ours, "--task", "chat", "--method", TREES, "--prompts", "48",
                            "--out", str(out / "identity.json")], out, 600, exact | checked)  # fmt: skip
    yield Step("bench", [*specflash, "bench", *ours, "--method", TREES, "--method", CHAINS, *sizes,
                         "--out", str(out / "bench.json")], out, 900, plain | checked)  # fmt: skip
    # As vLLM runs them by itself: some of its methods know neither V2 nor asynchronous scheduling.
    peers = ["ngram"]
    if EAGLE3:
        peers.append("eagle3=" + json.dumps({"method": "eagle3", "model": EAGLE3, "num_speculative_tokens": 5}))
    methods = [word for peer in [*peers, TREES] for word in ("--method", peer)]
    yield Step("peers", [*specflash, "bench", *arguments, "--engine-args", json.dumps(TRITON), *methods, *sizes,
                         "--out", str(out / "peers.json")], out, 900, plain)  # fmt: skip
    yield Step("synthetic", [*specflash, "bench", *ours, "--synthetic-acceptance", CHANCES, *sizes, "--batch-size", "64",
                             "--out", str(out / "synthetic.json")], out, 900, plain | checked)  # fmt: skip


def run(out: Path, only: list[str]) -> int:
    out.mkdir(parents=True, exist_ok=True)
    install(KIT / "site")
    results = out / "gpu.json"
    # Of steps taken in an earlier call.
    taken = {one["name"]: one for one in _read(results).get("steps", ())}
    asked = [step for step in steps(out) if not only or step.name in only]
    for step in asked:
        outcome = take(step, out)
        taken[step.name] = asdict(outcome)
        print(f"{outcome.name}: {'ok' if outcome.returncode == 0 else 'FAILED'} after {outcome.seconds:.0f} s", flush=True)
        # After every step: whatever stops this machine, what was found so far is kept.
        found = {name: _read(out / f"{name}.json") for name in RESULTS}
        record = {"device": device(), "steps": list(taken.values()), **{name: part for name, part in found.items() if part}}
        results.write_text(json.dumps(record, indent=1), encoding="utf-8")
    return 0 if asked and all(taken[step.name]["returncode"] == 0 for step in asked) else 1


def _read(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


def install(site: Path) -> None:
    """This package into the kit, with the entry point by which vLLM finds it."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--upgrade"]
    subprocess.run([*command, "--target", str(site), str(ROOT)], check=True)
    # The wheel has none.
    weights = Path("vllm_specflash", "lab", "demo", "weights")
    (site / weights).symlink_to(ROOT / weights)


def take(step: Step, out: Path) -> Outcome:
    path = os.pathsep.join([str(KIT / "site"), str(ROOT / "tests" / "support")])
    environment = os.environ | {
        "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "SPECFLASH_CACHE": str(KIT / "cache"),
        **step.environment,
    }  # fmt: skip
    began, log = time.monotonic(), out / f"{step.name}.log"
    with log.open("wb") as sink:
        try:
            run = subprocess.run([sys.executable, *step.command], cwd=step.folder, env=environment, stdout=sink,
                                 stderr=subprocess.STDOUT, timeout=step.seconds)  # fmt: skip
            returncode = run.returncode
        except subprocess.TimeoutExpired:
            returncode = None
    tail = log.read_text(encoding="utf-8", errors="replace")[-TAIL:]
    return Outcome(step.name, returncode, time.monotonic() - began, "" if returncode == 0 else tail)


def device() -> dict[str, str]:
    """What it ran on, and the versions that matter."""
    import torch

    facts = {"python": platform.python_version(), "cuda": str(torch.version.cuda)}
    if torch.cuda.is_available():
        facts["gpu"] = torch.cuda.get_device_name()
    found = {d.metadata["Name"]: d.version for d in metadata.distributions(path=[*sys.path, str(KIT / "site")])}
    return facts | {name: found.get(name, "missing") for name in ("torch", "triton", "transformers", "vllm", "vllm-specflash")}


if __name__ == "__main__":
    main()
