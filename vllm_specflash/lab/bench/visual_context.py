"""What the draft's time does as pictures fill the context, with compression and without, in the engine.

    python -m vllm_specflash.lab.bench.visual_context --out visual-context.json

The demo target and its shipped draft, and beside it the same draft without a compressor: every visual position is then a row of its
own. One request at a time, with the longest drafts, so that every step drafts alike. Medians over repeats.
"""

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft, core
from vllm_specflash.engine.hooks import replaced
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.bench.device import device
from vllm_specflash.lab.bench.targets import Target, find_target
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.checkout import EXAMPLE_DATA, required
from vllm_specflash.lab.demo.conversations import IMAGE_TOKENS
from vllm_specflash.train.images import read_image
from vllm_specflash.train.provenance import write_provenance
from vllm_specflash.train.startup import cpu_kv_cache, start_engine
from vllm_specflash.train.target import target_config

QUESTION = "Describe the pictures."
NAMES = ("compressed", "all rows")


def without_compression(draft: Path, folder: Path) -> Path:
    """Write a draft of the same weights that sees every visual position, as if it were text."""
    trained = SpecFlashDraft.from_pretrained(draft)
    plain = SpecFlashDraft(SpecFlashConfig.from_dict({**trained.config.to_dict(), "compressor": "none"})).to(trained.dtype)
    plain.load_state_dict({name: value for name, value in trained.state_dict().items() if not name.startswith("compressor.")}, strict=False)
    plain.save_pretrained(folder)
    return folder


class AttentionClock:
    """Stands in for `draft_attention` where the drafting core calls it; times it, and notes how many rows it saw.

    Attributes:
        seconds: since it was made.
        rows: that the newest call's request sees.
    """

    def __init__(self):
        self.seconds, self.rows = 0.0, 0
        self._timed = core.draft_attention

    def __call__(self, q: Tensor, keys: Tensor, values: Tensor, table: Tensor, block_size: int, visible: Tensor, *rest, **named):
        began = time.perf_counter()
        found = self._timed(q, keys, values, table, block_size, visible, *rest, **named)
        self.seconds += time.perf_counter() - began
        self.rows = int(visible.max())
        return found


class Engine:
    """One target with one draft, in this process, timed by the request."""

    def __init__(self, target: Target, most_pictures: int, tokens: int):
        length = most_pictures * (IMAGE_TOKENS + 2) + tokens + 64
        self.llm = start_engine(
            cache_root() / "logs" / "visual-context.log",
            model=target.model, speculative_config=target.speculation("longest"), max_model_len=length, max_num_seqs=1,
            limit_mm_per_prompt={"image": most_pictures}, enable_prefix_caching=False, mm_processor_cache_gb=0,
            **cpu_kv_cache(target_config(target.model), 2, length),
        )  # fmt: skip
        self.tokens, self.clock = tokens, AttentionClock()

    def ask(self, pictures: list, max_tokens: int) -> dict[str, float]:
        """Steps of one answer, and milliseconds in sum: of the whole, the draft and its attention."""
        from vllm import SamplingParams

        content = [*({"type": "image_pil", "image_pil": picture} for picture in pictures), {"type": "text", "text": QUESTION}]
        sampling = SamplingParams(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        (before,), attention, began = self.llm.collective_rpc("specflash_stats"), self.clock.seconds, time.perf_counter()
        with replaced(core, "draft_attention", self.clock):
            self.llm.chat([{"role": "user", "content": content}], sampling, use_tqdm=False)
        whole = time.perf_counter() - began
        (after,) = self.llm.collective_rpc("specflash_stats")
        return {
            "steps": after["steps"] - before["steps"], "whole": 1e3 * whole,
            "draft": 1e3 * (after["seconds"] - before["seconds"]), "attention": 1e3 * (self.clock.seconds - attention),
        }  # fmt: skip

    def measure(self, pictures: list, repeats: int) -> dict[str, float]:
        """Milliseconds a decoding step, and of the draft while the prompt is read: medians."""
        self.ask(pictures, self.tokens)
        steps, prefill = [], []
        for _ in range(repeats):
            first, all_of_it = self.ask(pictures, 1), self.ask(pictures, self.tokens)
            count = all_of_it["steps"] - first["steps"]
            steps.append({name: (all_of_it[name] - first[name]) / count for name in ("whole", "draft", "attention")})
            prefill.append(first["draft"])
        found = {f"{name}_ms": statistics.median(one[name] for one in steps) for name in steps[0]}
        return {**found, "prefill_draft_ms": statistics.median(prefill), "attended_rows": self.clock.rows}

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()


@one_sentence_errors()
def main(
    out: Annotated[Path | None, typer.Option(help="Also write the figures to this json file.")] = None,
    pictures: Annotated[list[int], typer.Option(help="Pictures in the prompt, 64 visual tokens each; may be repeated.")] = [1, 4, 8, 16, 32, 64],
    tokens: Annotated[int, typer.Option(help="Of an answer.")] = 96,
    repeats: Annotated[int, typer.Option(help="Answers measured.")] = 5,
) -> None:
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    scenes = find_target("scenes")
    files = sorted(required(EXAMPLE_DATA / "pictures").glob("*.png"))
    shown = [read_image(files[index % len(files)]) for index in range(max(pictures))]
    found: dict[str, dict[int, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        drafts = (scenes.draft, str(without_compression(Path(scenes.draft), Path(scratch))))
        for name, draft in zip(NAMES, drafts):
            engine = Engine(Target(scenes.name, scenes.model, draft, scenes.tasks), max(pictures), tokens)
            try:
                found[name] = {count: engine.measure(shown[:count], repeats) for count in pictures}
            finally:
                engine.close()
    rows = [{"pictures": n, "visual_tokens": n * IMAGE_TOKENS, **{name: found[name][n] for name in NAMES}} for n in pictures]
    if out is not None:
        write_provenance(out, device=device(), tokens=tokens, repeats=repeats, rows=rows)
    table = Table(title="A decoding step at batch 1, with compression / with all rows")
    for column in ("visual tokens", "rows attended to", "draft's attention ms", "ratio", "draft ms", "step ms", "draft in prefill ms"):
        table.add_column(column, justify="right")
    for row in rows:
        small, large = (row[name] for name in NAMES)
        pair = lambda name, digits=2: f"{small[name]:.{digits}f} / {large[name]:.{digits}f}"  # noqa: E731, B023
        table.add_row(
            str(row["visual_tokens"]), pair("attended_rows", 0), pair("attention_ms", 3),
            f"{small['attention_ms'] / large['attention_ms']:.2f}", pair("draft_ms"), pair("whole_ms"), pair("prefill_draft_ms"),
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    typer.run(main)
