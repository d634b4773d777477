"""Imports go one way: the package's graph, read off its sources, has no arrow but those in the table below."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vllm_specflash
import vllm_specflash.engine

PACKAGE = Path(vllm_specflash.__file__).resolve().parent
KERNELS = PACKAGE.parent / "triton_kernels"

NUMBERS = {"config", "draft", "tree", "triton_kernels"}
ENGINE = NUMBERS | {"compat", "engine"}
LAB = ENGINE | {"errors", "engine.v1", "engine.v2", "train", "lab.cache", "lab.checkout", "lab.showcase"}
# Of every room, the rooms that it may import. Modules that lie directly in the package or in lab/ are rooms of their own.
ALLOWED: dict[str, set[str]] = {
    "": set(),
    "config": set(),
    "errors": {"config"},
    "machine": set(),
    "compat": set(),
    "cpu_setup": set(),
    "torchvision_ops": set(),
    "triton_kernels": set(),
    "tree": {"triton_kernels"},
    "draft": {"tree", "triton_kernels"},
    "engine": NUMBERS | {"compat", "machine"},
    "engine.v1": ENGINE,
    "engine.v2": ENGINE,
    "plugin": {"config", "compat", "engine"},
    "train": NUMBERS,
    "lab": set(),
    "lab.cache": set(),
    "lab.checkout": {"config"},
    "lab.demo": NUMBERS | {"errors", "train", "lab.cache", "lab.checkout"},
    "lab.showcase": {"lab.checkout", "lab.demo"},
    "lab.bench": LAB | {"", "machine", "lab.demo"},
    "lab.serving": LAB | {"lab.bench"},
    "lab.soak": LAB | {"lab.bench", "lab.serving"},
    "lab.inspection": LAB | {"lab.bench"},
    "commands": LAB | {f"lab.{part}" for part in ("bench", "demo", "inspection", "serving", "soak")},
    "cli": {"", "compat", "commands"},
}
# Where vLLM may be imported; the modules of train/ only inside functions.
VLLM = {"engine", "engine.v1", "engine.v2", "plugin", "lab.bench", "lab.demo", "lab.inspection"}
VLLM_IN_TRAIN = {"generate", "self_prompts", "startup"}


def _modules() -> Iterator[tuple[str, Path]]:
    """Dotted name within the package, and file."""
    for file in PACKAGE.rglob("*.py"):
        yield ".".join(file.relative_to(PACKAGE).with_suffix("").parts), file
    for file in KERNELS.glob("*.py"):
        yield f"triton_kernels.{file.stem}", file


def _imports(node: ast.AST, package: str) -> Iterator[str]:
    """Full dotted names of everything imported below a node, of a module in that package."""
    for one in ast.walk(node):
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) + 1 - one.level] if one.level else []
            base = ".".join([*above, *filter(None, [one.module])])
            yield from (f"{base}.{alias.name}" for alias in one.names)


def _room(name: str) -> str:
    """The room of a dotted name within the package: the longest one of the table that it begins with."""
    parts = name.split(".")
    found = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((room for room in found if room in ALLOWED), "")


def _arrows() -> dict[tuple[str, str], list[str]]:
    """Importing room, imported room: which modules, and what they import."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for module, file in _modules():
        package = f"vllm_specflash.{module}".rpartition(".")[0]
        for name in _imports(ast.parse(file.read_text(encoding="utf-8")), package):
            if name == "vllm_specflash" or name.startswith("vllm_specflash."):
                arrow = _room(module), _room(name.removeprefix("vllm_specflash").removeprefix("."))
                if arrow[0] != arrow[1]:
                    arrows.setdefault(arrow, []).append(f"{module} imports {name}")
    return arrows


ARROWS = _arrows()


def test_every_module_has_a_room():
    """A new folder or a new module in the package or in lab/ takes its place in the table."""
    homeless = [module for module, _ in _modules() if module != "__init__" and not _room(module)]
    in_lab = [module for module, _ in _modules() if _room(module) == "lab" and module != "lab.__init__"]
    assert not homeless + in_lab
    assert len(ARROWS) > 40


@pytest.mark.parametrize("room", ALLOWED)
def test_room_imports_only_what_it_may(room):
    forbidden = [why for (source, target), found in ARROWS.items() if source == room and target not in ALLOWED[room] for why in found]
    assert not forbidden


def test_lab_is_imported_by_commands_alone():
    outside = {source for source, target in ARROWS if target.startswith("lab") and not source.startswith("lab")}
    assert outside == {"commands"}


@pytest.mark.parametrize("table", [ALLOWED, {source: {t for s, t in ARROWS if s == source} for source, _ in ARROWS}], ids=["allowed", "drawn"])
def test_there_are_no_cycles(table):
    try:
        TopologicalSorter(table).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def _vllm(node: ast.AST) -> bool:
    return any(name.split(".")[0] == "vllm" for name in _imports(node, ""))


def test_vllm_is_imported_where_the_engine_says():
    parsed = {module: ast.parse(file.read_text(encoding="utf-8")) for module, file in _modules()}
    found = {module for module, tree in parsed.items() if _vllm(tree)}
    in_train = {f"train.{name}" for name in VLLM_IN_TRAIN}
    assert {_room(module) for module in found - in_train} == VLLM
    assert found >= in_train
    # On import of the module, that is.
    assert not [module for module in in_train if any(_vllm(node) for node in parsed[module].body if isinstance(node, (ast.Import, ast.ImportFrom)))]
    said = set(re.findall(r"train/(\w+)\.py", vllm_specflash.engine.__doc__))
    assert said == VLLM_IN_TRAIN
    assert "Outside it only plugin.py, lab/ and three modules of train/ do" in vllm_specflash.engine.__doc__
