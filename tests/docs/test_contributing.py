"""CONTRIBUTING names what exists, and nothing names a document that does not."""

import re
import subprocess

import pytest
from documents import ROOT

CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
TARGETS = re.findall(r"^ {4}make (\w+)", CONTRIBUTING, re.MULTILINE)
PATHS = [path for path in re.findall(r"`([\w./-]+)`", CONTRIBUTING) if "/" in path or path.endswith((".py", ".md"))]


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows_the_target(target):
    dry = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True)
    assert dry.returncode == 0, dry.stderr


def test_paths_exist():
    assert len(TARGETS) >= 7 and len(PATHS) > 20
    # A file of the package may go by its name alone, where the sentence says whose it is.
    missing = [path for path in PATHS if not (ROOT / path).exists() and not list((ROOT / "vllm_specflash").rglob(path.rstrip("/")))
               and not list((ROOT / "triton_kernels").glob(path))]  # fmt: skip
    assert not missing


def test_code_refers_to_no_document_that_is_not_here():
    dangling = {}
    for file in [*(ROOT / "vllm_specflash").rglob("*.py"), *(ROOT / "triton_kernels").rglob("*.py")]:
        for name in re.findall(r"\b[A-Z][A-Z_]+\.md\b", file.read_text(encoding="utf-8")):
            if not (ROOT / name).exists():
                dangling[file.relative_to(ROOT).as_posix()] = name
    assert not dangling
