"""Run kernels with every tensor against a page that may not be touched: a stray access kills the process.

    TRITON_INTERPRET=1 python guarded.py above|below [CASE ...]

`above` puts each tensor's last byte before the forbidden page, `below` its first byte after one. The interpreter reads and
writes memory at a kernel's own addresses, masked lanes not at all. Says each case's name before it runs.
"""

import ctypes
import mmap
import sys

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vllm_specflash.triton_kernels import _copy_samples as copy_samples
from vllm_specflash.triton_kernels import _samples as samples
from vllm_specflash.triton_kernels._triton import launch, tl, triton
from vllm_specflash.triton_kernels.best_tree import best_tree_triton
from vllm_specflash.triton_kernels.commit_rows import commit_rows_triton
from vllm_specflash.triton_kernels.draft_attention import draft_attention_triton
from vllm_specflash.triton_kernels.find_copies import find_copies_triton
from vllm_specflash.triton_kernels.kv_compact import cache_table, kv_compact_triton
from vllm_specflash.triton_kernels.latent_compress import latent_compress_triton
from vllm_specflash.triton_kernels.mix_copies import mix_copies_triton
from vllm_specflash.triton_kernels.observe_chances import observe_chances_triton
from vllm_specflash.triton_kernels.tree_accept import tree_accept_triton
from vllm_specflash.triton_kernels.tree_attention import tree_attention_triton
from vllm_specflash.triton_kernels.tree_rows import tree_rows_triton

PAGE = mmap.PAGESIZE
NO_ACCESS, READ_AND_WRITE = 0, 1 | 2
# A block that would lie far outside of any cache: block tables hold it wherever nobody may look.
NO_BLOCK = 1 << 28
ODD = samples.Heads("odd", 6, 2, 24)

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def guarded_memory(size: int, side: str) -> torch.Tensor:
    """`size` bytes of memory between two forbidden pages, against the one on that side."""
    inner = -(-max(size, 1) // PAGE) * PAGE
    outer = libc.mmap(None, inner + 2 * PAGE, NO_ACCESS, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if libc.mprotect(outer + PAGE, inner, READ_AND_WRITE):
        raise OSError(ctypes.get_errno(), "mprotect")
    begin = outer + PAGE + (inner - size if side == "above" else 0)
    return torch.frombuffer((ctypes.c_char * max(size, 1)).from_address(begin), dtype=torch.uint8)[:size]


class Guard(TorchDispatchMode):
    """Within it new tensors lie in guarded memory; `place` moves those that exist, views of one storage together."""

    NEW = ("empty", "new_empty", "empty_like", "full", "new_full", "zeros", "zeros_like", "clone", "_to_copy")

    def __init__(self, side: str):
        super().__init__()
        self.side, self.storages = side, {}

    def place(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.storages:
            memory = guarded_memory(storage.nbytes(), self.side)
            ctypes.memmove(memory.data_ptr(), storage.data_ptr(), storage.nbytes())
            # The old storage stays: its address must not come back as another's.
            self.storages[storage.data_ptr()] = memory, storage
        memory, _ = self.storages[storage.data_ptr()]
        moved = torch.empty(0, dtype=tensor.dtype)
        return moved.set_(memory.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride())

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        return self.place(result) if function.overloadpacket.__name__ in self.NEW and result.numel() else result


def draft_attention(place, splits, extra):
    """One request sees all of its blocks, the cache's last among them, one a single position behind a span, one nothing."""
    args = samples.draft_attention_inputs(ODD, 3, 60, 1, extra, torch.float32, "cpu")
    args["visible"][1:] = torch.tensor([1, 0])
    in_order = args["block_table"].flatten().sort().values.view(3, -1).flip(0)
    table = torch.nn.functional.pad(in_order, (0, 3), value=NO_BLOCK)
    needed = table[1, 500 // 16].item()
    table[1:] = NO_BLOCK
    table[1, 500 // 16] = needed
    draft_attention_triton(**place(args | dict(block_table=table, max_visible=None)), num_splits=splits)


def tree_attention(place, splits):
    """Two trees that end with their last block, within a tile of keys, and a request without nodes between them."""
    args = samples.tree_attention_inputs(ODD, 3, 5, 51, 8, torch.float32, "cpu")
    rows = {name: args[name][:10] for name in ("query", "ancestors")}
    in_order = args["block_table"].flatten().sort().values.view(3, -1)
    table = torch.nn.functional.pad(in_order, (0, 3), value=NO_BLOCK)
    table[1] = NO_BLOCK
    cu_nodes = torch.tensor([0, 5, 5, 10], dtype=torch.int32)
    args |= rows | dict(block_table=table, cu_nodes=cu_nodes, max_num_nodes=64, max_context_len=None)
    tree_attention_triton(**place(args), num_splits=splits)


def best_tree(place):
    """One request with all its depths, one with none."""
    args = samples.best_tree_inputs(2, 3, 5, 7, "cpu")
    args["deepest"][1] = 0
    best_tree_triton(**place(args))


def latent_compress(place):
    """Spans of 33 rows, the last without any in this chunk."""
    args = samples.latent_compress_inputs(5, 72, 3, 33, torch.float32, "cpu")
    args["cu_seqlens"][3], args["hidden"] = 66, args["hidden"][:66].clone()
    latent_compress_triton(**place(args))


def kv_compact(place):
    """All accepted nodes move; behind their blocks the table holds none."""
    args = samples.kv_compact_inputs(ODD, 2, 3, 4, 16, torch.float32, "cpu")
    args["caches"] = cache_table([place(cache) for cache in args["caches"].caches])
    args["block_table"] = torch.nn.functional.pad(args["block_table"], (0, 2), value=NO_BLOCK)
    kv_compact_triton(**{name: value if name == "caches" else place(value) for name, value in args.items()})


def find_copies(place):
    """Texts that end with their table, one that has ended before, and padding: nothing in a slot beyond it."""
    args = copy_samples.find_copies_inputs(4, 1500, 5, "cpu")
    args["slot_of"], args["ends"] = torch.tensor([3, 0, 1, 4]), torch.tensor([1500, 1500, 2, 0], dtype=torch.int32)
    find_copies_triton(**place(args))


def mix_copies(place):
    """As many candidates as fill no block, and one request without a copy."""
    args = copy_samples.mix_copies_inputs(2, 3, 5, 7, "cpu")
    args["copies"].matched[1] = 0
    mix_copies_triton(**place(args))


@triton.jit
def one_too_far_kernel(numbers, out, offset):
    tl.store(out, tl.load(numbers + offset))


def one_too_far(place, offset):
    """What the guard is for."""
    launch(one_too_far_kernel, (1,), *place((torch.ones(5), torch.zeros(1))), offset)


CASES = {
    **{
        f"draft_attention, {splits} splits, {extra} in memory": (draft_attention, splits, extra)
        for splits in (1, 3) for extra in (0, 5)
    },
    **{f"tree_attention, {splits} splits": (tree_attention, splits) for splits in (1, 3)},
    "best_tree": (best_tree,),
    "find_copies": (find_copies,),
    "mix_copies": (mix_copies,),
    "latent_compress": (latent_compress,),
    "kv_compact": (kv_compact,),
    "tree_accept": (lambda place: tree_accept_triton(**place(samples.tree_accept_inputs(3, 5, "cpu"))),),
    "observe_chances": (lambda place: observe_chances_triton(**place(samples.observe_chances_inputs(3, 5, "cpu"))),),
    "tree_rows": (lambda place: tree_rows_triton(**place(samples.tree_rows_inputs(3, 5, "cpu"))),),
    "commit_rows": (lambda place: commit_rows_triton(**place(samples.commit_rows_inputs(3, 5, True, "cpu"))),),
    "commit_rows, none verified": (lambda place: commit_rows_triton(**place(samples.commit_rows_inputs(3, 5, False, "cpu"))),),
}  # fmt: skip
FAULTY = {"one beyond the end": (one_too_far, 5), "one before the beginning": (one_too_far, -1)}


def run(side: str, names: list[str]) -> None:
    for name in names or CASES:
        print(name, flush=True)
        guard = Guard(side)

        def place(thing):
            if isinstance(thing, torch.Tensor):
                return guard.place(thing)
            if isinstance(thing, dict):
                return {key: place(value) for key, value in thing.items()}
            if isinstance(thing, tuple):
                return type(thing)(*map(place, thing)) if hasattr(thing, "_fields") else tuple(map(place, thing))
            return thing

        call, *arguments = (CASES | FAULTY)[name]
        with guard:
            call(place, *arguments)


if __name__ == "__main__":
    run(sys.argv[1], sys.argv[2:])
