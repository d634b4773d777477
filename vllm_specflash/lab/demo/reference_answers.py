"""Reference answers to the demo's picture prompts, in the form of `specflash data`: what a data set would have.

    python -m vllm_specflash.lab.demo.reference_answers --target TARGET --prompts P/prompts-0.jsonl --out B --count 3600

The prompts are those of picture_prompts.py with the same seed and count, whose references are drawn again.
"""

import argparse
from collections import Counter
from pathlib import Path

from transformers import AutoTokenizer

from vllm_specflash.config import SpecFlashError
from vllm_specflash.errors import one_sentence_errors
from vllm_specflash.lab.demo.prompts import picture_prompts
from vllm_specflash.train.answers import Answer, AnswerFolder
from vllm_specflash.train.prompts import read_prompts
from vllm_specflash.train.target import target_config


def write_references(target: str, prompts: Path, out: Path, count: int, seed: int = 0) -> None:
    """One shard of `count` answers, each prompt's reference in the target's tokens, ended as the target ends its own.

    Raises:
        SpecFlashError: there is no such target, or the prompts are of another seed.
        OSError: the prompts cannot be read.
    """
    target_config(target)
    tokenizer = AutoTokenizer.from_pretrained(target)
    answers = []
    asked = read_prompts(prompts, Counter())
    for prompt, drawn in zip(asked, picture_prompts(count, seed), strict=False):
        if drawn["prompt"] not in prompt.text:
            raise SpecFlashError(
                f"{prompts} was not made with seed {seed}, of which {prompt.id} asks something else: give its own seed with --seed."
            )
        ids = tokenizer(drawn["reference"], add_special_tokens=False)["input_ids"]
        answers.append(Answer(prompt, [*ids, tokenizer.eos_token_id], drawn["reference"], 0.0))
    AnswerFolder(out).append(answers)


@one_sentence_errors()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--target", required=True)
    parser.add_argument("--prompts", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    write_references(options.target, options.prompts, options.out, options.count, options.seed)


if __name__ == "__main__":
    main()
