"""An answer by an engine that records itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.config import SpecFlashError
from vllm_specflash.lab.bench.option import option
from vllm_specflash.lab.bench.targets import Target
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.inspection.record import Record
from vllm_specflash.lab.inspection.recorder import RECORDER
from vllm_specflash.train.images import read_image
from vllm_specflash.train.startup import cpu_kv_cache, start_engine
from vllm_specflash.train.target import target_config


@dataclass(frozen=True)
class AnswerOptions:
    """How the answer is made."""

    max_tokens: int = option(128, "Cut the answer here.")
    temperature: float = option(0.0, "0 is greedy.")
    seed: int = option(0, "Of sampling.")
    dtype: str = option("auto", "Of the target.")
    max_model_len: int = option(2048, "Of the engine.")
    enforce_eager: bool = option(False, "Without compilation: starts sooner, and its times are not those of serving.")
    sizing: str = option("auto", "SpecFLASH's sizing: auto, or longest to draft whatever it costs here.")


@dataclass(frozen=True)
class Inspected:
    """An answer and its record; `pieces` are the readable texts of its tokens, in the record's order."""

    text: str
    pieces: list[str]
    record: Record
    names: dict[int, str]


def inspect_answer(target: Target, prompt: str, images: Sequence[Path], options: AnswerOptions) -> Inspected:
    """Ask twice, record the second time: the first forwards of a shape are not typical.

    Raises:
        Unusable: a file of `images` is no picture.
        SpecFlashError: engines of this machine run on vLLM's model runner V2, where nothing is recorded.
    """
    from vllm import SamplingParams

    from vllm_specflash.engine.speculative_config import runs_v2

    if runs_v2():
        raise SpecFlashError("specflash inspect records vLLM's model runner V1, and this machine's engines run on V2: ask on one without a GPU.")

    # Read before the engine starts, which takes far longer.
    parts = [{"type": "image_pil", "image_pil": read_image(path)} for path in images]
    llm = start_engine(
        cache_root() / "logs" / "inspect.log",
        model=target.model,
        speculative_config=target.speculation(options.sizing),
        dtype=options.dtype,
        max_model_len=options.max_model_len,
        max_num_seqs=1,
        enforce_eager=options.enforce_eager,
        limit_mm_per_prompt={"image": len(images)} if images else None,
        # The second time must see every visual token again.
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        worker_extension_cls=RECORDER,
        # Two of the answer's length: one more than its own blocks take.
        **cpu_kv_cache(target_config(target.model), 2, options.max_model_len, 4),
    )
    try:
        llm.collective_rpc("inspect_install")
        content = [*parts, {"type": "text", "text": prompt}] if images else prompt
        sampling = SamplingParams(temperature=options.temperature, seed=options.seed, max_tokens=options.max_tokens)
        for _ in range(2):
            llm.collective_rpc("inspect_take")
            (answer,) = llm.chat([{"role": "user", "content": content}], sampling, use_tqdm=False)
        record = Record.of(llm.collective_rpc("inspect_take")[0])
        tokenizer = llm.get_tokenizer()
        tokens = [token for token, _, _ in record.tokens()]
        drafted = {node.token for step in record.steps for node in step.draft}
        names = {token: tokenizer.decode([token]) for token in drafted | set(tokens)}
        return Inspected(answer.outputs[0].text, pieces(tokenizer, tokens), record, names)
    finally:
        llm.llm_engine.engine_core.shutdown()


def pieces(tokenizer, tokens: Sequence[int]) -> list[str]:
    """The text that each token adds; what ends inside a character is shown with the token that completes it."""
    found, shown = [], ""
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(list(tokens[:count]), skip_special_tokens=True)
        if text.endswith("\ufffd") or not text.startswith(shown):
            found.append("")
            continue
        found.append(text[len(shown) :])
        shown = text
    return found
