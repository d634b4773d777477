"""Every vLLM name the plugin leans on, in the sources of the oldest, a middle and the newest supported release.

Nothing of those releases is imported: their modules are parsed, and names are followed through imports and base
classes.
"""

import ast
import functools
from dataclasses import dataclass
from pathlib import Path

import pytest

import vllm_specflash
from vllm_specflash import compat

LEANED_ON = (
    compat.CONFIG_NAMES + compat.LAYER_NAMES + compat.ENGINE_NAMES + compat.CPU_NAMES + compat.TREE_NAMES
    + compat.CPU_TREE_NAMES + compat.CUDA_TREE_NAMES + compat.V2_NAMES + compat.V2_CPU_NAMES
)
PACKAGE = Path(vllm_specflash.__file__).parent


@dataclass(frozen=True)
class Found:
    """A definition and the module whose names its text uses; a module itself has no definition."""

    module: str
    node: ast.AST | None


_parsed = functools.cache(ast.parse)


def _statements(body):
    """Statements that run on import, those under `if` and `try` included."""
    for statement in body:
        yield statement
        for part in ("body", "orelse", "handlers", "finalbody"):
            if isinstance(statement, ast.If | ast.Try | ast.With | ast.ExceptHandler):
                yield from _statements(getattr(statement, part, []))


def _binds(statement, name: str) -> bool:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return statement.name == name
    targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
    return any(isinstance(target, ast.Name) and target.id == name for target in targets)


def find(release, module: str, name: str) -> Found | None:
    """Where `module.name` is defined, through as many re-exports as it takes."""
    source = release.source(module)
    if source is None:
        return None
    is_package = release.source(f"{module}.__init__") is not None
    for statement in _statements(_parsed(source).body):
        if isinstance(statement, ast.ImportFrom):
            for alias in statement.names:
                if (alias.asname or alias.name) == name:
                    origin = _absolute(statement, module, is_package)
                    return find(release, origin, alias.name) or _module(release, f"{origin}.{alias.name}")
        elif _binds(statement, name):
            return Found(module, statement)
    return _module(release, f"{module}.{name}")


def _absolute(statement: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not statement.level:
        return statement.module
    parts = module.split(".")
    parts = parts[: len(parts) - statement.level + is_package]
    return ".".join([*parts, *([statement.module] if statement.module else [])])


def _module(release, module: str) -> Found | None:
    return Found(module, None) if release.source(module) is not None else None


def _bases(release, found: Found):
    for base in found.node.bases:
        if isinstance(base, ast.Subscript):
            base = base.value
        if isinstance(base, ast.Name):
            parent = find(release, found.module, base.id)
            if parent and isinstance(parent.node, ast.ClassDef):
                yield parent


def member(release, found: Found, name: str) -> Found | None:
    """A class's method or class-level name, its own or inherited."""
    for statement in _statements(found.node.body):
        if _binds(statement, name):
            return Found(found.module, statement)
    return next((inner for base in _bases(release, found) if (inner := member(release, base, name))), None)


def has_attribute(release, found: Found, name: str) -> bool:
    """Whether instances have it: declared in the class or set on self in any method, its own or inherited."""
    if member(release, found, name):
        return True
    for node in ast.walk(found.node):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr == name:
            if isinstance(node.value, ast.Name) and node.value.id == "self":
                return True
    return any(has_attribute(release, base, name) for base in _bases(release, found))


def parameters(release, found: Found) -> list[str]:
    """Parameter names of a function, or of a class's __init__."""
    node = found.node
    if isinstance(node, ast.ClassDef):
        node = member(release, found, "__init__").node
    arguments = node.args
    return [argument.arg for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def resolve(release, name: compat.Name) -> Found | None:
    first, *rest = name.qualname.split(".")
    found = find(release, name.module, first)
    for part in rest:
        found = found and member(release, found, part)
    return found


@pytest.mark.parametrize("name", LEANED_ON, ids=str)
def test_release_has_what_compat_lists(release, name):
    found = resolve(release, name)
    assert found, f"vLLM {release.version} has no {name}"
    if name.parameters:
        assert set(name.parameters) <= set(parameters(release, found))
    missing = [attribute for attribute in name.attributes if not has_attribute(release, found, attribute)]
    assert not missing, f"instances of {name} have no {missing}"


def _imports():
    """(module, name) of every vLLM name that our sources import."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                yield from ((node.module, alias.name) for alias in node.names)


# vllm/__init__.py resolves its public names on demand, so there is no statement to find: each is a promise to users.
@pytest.mark.parametrize("module, name", sorted({pair for pair in _imports() if pair[0] != "vllm"}))
def test_release_has_what_our_sources_import(release, module, name):
    assert find(release, module, name), f"vLLM {release.version} has no {module}.{name}"


def test_a_name_that_is_not_there_is_noticed(release):
    assert not resolve(release, compat.Name("vllm.engine.arg_utils", "EngineArgs.create_nothing"))
    assert not find(release, "vllm.no_such_module", "anything")
    runner = find(release, "vllm.v1.worker.gpu_model_runner", "GPUModelRunner")
    assert not has_attribute(release, runner, "no_such_attribute")
