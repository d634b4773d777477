"""The code blocks of Markdown pages."""

import re
import shlex
from pathlib import Path

import vllm_specflash

ROOT = Path(vllm_specflash.__file__).resolve().parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))
README = ROOT / "README.md"


def blocks(page: Path, language: str) -> list[str]:
    """Contents of a page's fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """Shell commands of a page's `sh` blocks, and of README's indented ones, a line each."""
    if page == README:
        code = [re.sub(r"^ {4}", "", line) for line in page.read_text(encoding="utf-8").splitlines() if _shell(line)]
    else:
        code = "".join(blocks(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in code if shlex.split(line, comments=True)]


def _shell(line: str) -> bool:
    """Whether a line of README is an indented command, not indented Python."""
    return bool(re.match(r" {4}(make|pip|python|vllm|specflash|examples/)\b", line))
