"""Answers to questions about pictures, offline.

    python examples/offline.py                                  # the demo model, pictures that come with it
    python examples/offline.py --model TARGET --draft DRAFT --question "What is shown?" photo.jpg

Without --draft, the draft is looked for in the target's own folder `specflash/`.
"""

import argparse
from pathlib import Path

from PIL import Image
from vllm import LLM, SamplingParams

PICTURES = sorted((Path(__file__).parent / "data" / "pictures").glob("scene-*.png"))[:4]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="target: a folder or a hub id")
    parser.add_argument("--draft", help="draft: a folder or a hub id")
    parser.add_argument("--question", default="Describe this picture in detail.")
    parser.add_argument("--max-tokens", type=int, default=160)
    parser.add_argument("--sizing", default="auto", help="longest: draft whatever it costs on this machine")
    parser.add_argument("--eager", action="store_true", help="start sooner, run slower: no compilation")
    parser.add_argument("pictures", nargs="*", type=Path, default=PICTURES)
    args = parser.parse_args()

    model, draft = (args.model, args.draft) if args.model else demo()
    llm = LLM(
        model,
        speculative_config={"method": "specflash", "sizing": args.sizing, **({"model": draft} if draft else {})},
        max_model_len=1024,
        enforce_eager=args.eager,
        # Room for these pictures; without it vLLM takes nearly all the memory there is.
        kv_cache_memory_bytes=1 << 30,
        disable_log_stats=False,  # vLLM counts accepted tokens only when it keeps statistics
    )
    conversations = [[{"role": "user", "content": [picture(path), text(args.question)]}] for path in args.pictures]
    outputs = llm.chat(conversations, SamplingParams(temperature=0, max_tokens=args.max_tokens))
    for path, output in zip(args.pictures, outputs):
        print(f"\n{path.name}: {output.outputs[0].text.strip()}")
    print(f"\nAcceptance length: {acceptance_length(llm):.2f} tokens per forward of the target")


def demo() -> tuple[str, str]:
    """The demo model, assembled on first use, and the draft that is shipped for it."""
    from vllm_specflash.lab.showcase import DEMO_TARGETS

    scenes = DEMO_TARGETS[0]
    return str(scenes.build()), str(scenes.draft)


def picture(path: Path) -> dict:
    return {"type": "image_pil", "image_pil": Image.open(path).convert("RGB")}


def text(question: str) -> dict:
    return {"type": "text", "text": question}


def acceptance_length(llm: LLM) -> float:
    counters = {metric.name: metric.value for metric in llm.get_metrics() if hasattr(metric, "value")}
    steps = counters["vllm:spec_decode_num_drafts"]
    return 1 + counters["vllm:spec_decode_num_accepted_tokens"] / max(1, steps)


# vLLM may start its engine in a process of its own, which imports this file again.
if __name__ == "__main__":
    main()
