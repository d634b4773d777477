"""Where our workers and runners take hold of vLLM beside subclassing it."""

from contextlib import contextmanager

from vllm_specflash import compat
from vllm_specflash.config import TREE_BACKEND, SpecFlashError


@contextmanager
def replaced(module, name: str, value):
    """`module.name` is `value` inside: vLLM's init_device names the runner class that it builds, for one."""
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def require_engine_names(names: tuple[compat.Name, ...]) -> None:
    """Refuse to start on a vLLM that lacks something the runner needs.

    Raises:
        SpecFlashError: which name.
    """
    fault = compat.problem(names)
    if fault:
        raise SpecFlashError(fault)


def register_tree_attention() -> bool:
    """Make our backend this process's CUSTOM one; whether it is, which it is not where another plugin's or a name is missing."""
    if compat.problem(compat.CUDA_TREE_NAMES):
        return False
    from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend

    try:
        taken = AttentionBackendEnum.CUSTOM.get_path()
    except ValueError:
        register_backend(AttentionBackendEnum.CUSTOM, TREE_BACKEND)
        return True
    return taken == TREE_BACKEND
