"""Mixed held-out prompts: the shipped ones, and freshly drawn pictures where those are not enough."""

from itertools import chain, zip_longest
from pathlib import Path

from vllm_specflash.lab.bench.prompts import load_tasks
from vllm_specflash.lab.cache import cache_root
from vllm_specflash.lab.checkout import EXAMPLE_DATA
from vllm_specflash.lab.demo.pictograms import FONT
from vllm_specflash.train.prompts import Prompt

# Of the prompts drawn: not the seed that examples/data or any training prompt was made with.
SEED = 77


def mixed_prompts(count: int, tasks: tuple[str, ...], data: Path = EXAMPLE_DATA) -> list[Prompt]:
    """Up to `count` prompts of the tasks in turns; fewer if drawing pictures is not possible here.

    Pictures are drawn with the emoji font of pictograms.py, from the split that nothing was trained on.

    Raises:
        FileNotFoundError: none of the tasks has any; names those that have.
    """
    shipped = load_tasks(data)
    found = _in_turns([shipped.get(task, []) for task in tasks])
    missing = count - len(found)
    if missing > 0 and {"scenes", "clips"} & set(tasks) and FONT.is_file():
        from vllm_specflash.lab.demo.picture_prompts import write_prompts

        drawn = load_tasks(write_prompts(cache_root() / "held-out", missing, SEED, split="heldout"))
        found += _in_turns([drawn.get(task, []) for task in tasks])
    if not found:
        raise FileNotFoundError(f"{data} has no prompts for {', '.join(tasks)}: its tasks are {', '.join(sorted(shipped))}.")
    return found[:count]


def _in_turns(lists: list[list[Prompt]]) -> list[Prompt]:
    return [prompt for prompt in chain.from_iterable(zip_longest(*lists)) if prompt is not None]
