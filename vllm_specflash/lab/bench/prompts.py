"""The prompts of a benchmark: the jsonl files of a folder like examples/data, whose records name their task."""

from collections import Counter
from pathlib import Path

from vllm_specflash.lab.checkout import EXAMPLE_DATA, required
from vllm_specflash.train.prompts import Prompt, read_prompts


def load_tasks(folder: Path = EXAMPLE_DATA) -> dict[str, list[Prompt]]:
    """All prompts of a folder's jsonl files, or of one such file, by task.

    Raises:
        FileNotFoundError: there is no usable prompt.
        SpecFlashError: the examples are wanted, and this is no checkout.
    """
    if folder.is_relative_to(EXAMPLE_DATA):
        required(folder)
    skipped: Counter = Counter()
    tasks: dict[str, list[Prompt]] = {}
    for file in [folder] if folder.is_file() else sorted(folder.glob("*.jsonl")):
        for prompt in read_prompts(file, skipped):
            tasks.setdefault(prompt.task, []).append(prompt)
    if not tasks:
        reasons = f" ({', '.join(skipped)})" if skipped else ""
        raise FileNotFoundError(f"No prompts in {folder}{reasons}: name a folder of .jsonl files with --data.")
    return tasks


def load_task(task: str, folder: Path = EXAMPLE_DATA) -> list[Prompt]:
    """The prompts of one task.

    Raises:
        FileNotFoundError: the folder has none; names the tasks that it has.
    """
    tasks = load_tasks(folder)
    if task not in tasks:
        raise FileNotFoundError(f"{folder} has no prompts for task {task!r}: its tasks are {', '.join(sorted(tasks))}.")
    return tasks[task]
