"""What a benchmark runs on: a target, its draft and the tasks it can do."""

from dataclasses import dataclass
from pathlib import Path

from vllm_specflash.config import METHOD
from vllm_specflash.lab.checkout import required
from vllm_specflash.lab.showcase import DEMO_TARGETS, DemoTarget


@dataclass(frozen=True)
class Target:
    """`model` is a folder or hub id; `draft` None leaves the search to the plugin."""

    name: str
    model: str
    draft: str | None
    tasks: tuple[str, ...]

    def speculation(self, sizing: str) -> dict[str, str]:
        """vLLM's `speculative_config` for SpecFLASH on it, its drafts sized that way (config.SIZINGS)."""
        return {"method": METHOD, "sizing": sizing, **({"model": self.draft} if self.draft else {})}


def of_demo(demo: DemoTarget, draft: str | None = None, tasks: tuple[str, ...] = ()) -> Target:
    """A demo target, built on first use.

    Raises:
        SpecFlashError: its draft or its weights are in a checkout alone.
    """
    draft = draft or str(required(demo.draft))
    return Target(demo.name, str(demo.build()), draft, tasks or demo.tasks)


def find_target(text: str, draft: str | None = None, tasks: tuple[str, ...] = ()) -> Target:
    """A demo target by name (built on first use), or a user's own by folder or hub id.

    Args:
        text: name, folder or hub id.
        draft: draft checkpoint, over the default one.
        tasks: tasks to run, over the default ones (of a user's own target, chat).
    """
    for demo in DEMO_TARGETS:
        if text == demo.name:
            return of_demo(demo, draft, tasks)
    return Target(Path(text).name, text, draft, tasks or ("chat",))
