"""One layer's step through our backend's own classes: every row sees what its oracle in float64 sees."""

from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny_models import HEAD_DIM, HEADS, KV_HEADS
from vllm.v1.attention.backend import CommonAttentionMetadata
from vllm.v1.kv_cache_interface import FullAttentionSpec

from vllm_specflash.engine.node_slots import NodeVerification, keys_and_values
from vllm_specflash.engine.tree_backend import TreeAttentionBackend
from vllm_specflash.tree.step import Draft, StepTrees

# Rows that a piecewise graph pads the batch with.
PADDING = 3


@dataclass
class Request:
    """`computed` positions in the cache, `extra` rows of a prefill chunk, then a tree (a plain decode is just its root)."""

    computed: int
    extra: int
    parents: list[int]

    @property
    def rows(self) -> int:
        return self.extra + len(self.parents)

    def seen_by(self, row: int) -> list[int]:
        """Positions."""
        root = self.computed + self.extra
        node = row - self.extra
        if node < 0:
            return list(range(self.computed + row + 1))
        ancestors = []
        while node >= 0:
            ancestors.append(root + node)
            node = self.parents[node]
        return [*range(root), *ancestors]


def chain(length: int) -> list[int]:
    return list(range(-1, length))


def random_tree(nodes: int) -> list[int]:
    return [-1, *(int(torch.randint(0, node, ())) for node in range(1, nodes))]


DECODE = [-1]
FORK, BUSH = [-1, 0, 1, 0, 3], [-1, 0, 1, 2, 1, 0, 5, 5, 0]


def batches() -> dict[str, tuple[list[Request], bool]]:
    """Requests, and whether ours attends alone."""
    torch.manual_seed(3)
    return {
        "a_prefill_beside_trees": (
            [
                Request(5, 16, DECODE), Request(40, 0, DECODE), Request(33, 0, FORK), Request(0, 6, DECODE),
                Request(18, 0, BUSH), Request(9, 0, chain(4)),
            ], False,
        ),
        "decodes_only": (
            [Request(40, 0, DECODE), Request(33, 0, FORK), Request(15, 0, chain(4)), Request(18, 0, BUSH)], True
        ),
        "a_chunk_that_ends_in_a_tree": ([Request(2, 3, BUSH), Request(31, 0, FORK)], False),
        "64_nodes": ([Request(29, 0, random_tree(64)), Request(64, 0, DECODE)], True),
        "a_chain_beyond_the_bitmask": ([Request(3, 0, chain(64)), Request(12, 0, FORK)], False),
        "nothing_before_the_root": ([Request(0, 0, BUSH)], True),
    }  # fmt: skip


class Step:
    """Tensors of a step over a paged cache whose free slots hold 1e3; pages lie in random order."""

    def __init__(self, requests: list[Request], block_size: int, heads_first: bool, device):
        torch.manual_seed(5)
        self.requests = requests
        pages = [-(-(r.computed + r.rows) // block_size) for r in requests]
        order, width = torch.randperm(sum(pages)), max(pages) + 1
        self.table = torch.zeros(len(requests), width, dtype=torch.int32)
        for row, owned in zip(self.table, order.split(pages)):
            row[: len(owned)] = owned
        shape = (KV_HEADS, block_size) if heads_first else (block_size, KV_HEADS)
        cache = torch.full((sum(pages), *shape, 2 * HEAD_DIM), 1e3)
        self.kv_cache = cache if heads_first else cache.transpose(1, 2)
        self.rows = np.array([r.rows for r in requests])
        total = int(self.rows.sum())
        self.query = torch.randn(total + PADDING, HEADS, HEAD_DIM)
        self.key, self.value = torch.randn(2, total + PADDING, KV_HEADS, HEAD_DIM)
        self.slots = torch.full((total + PADDING,), -1)
        self.past = [torch.randn(2, r.computed, KV_HEADS, HEAD_DIM) for r in requests]
        first = 0
        views = keys_and_values(self.kv_cache)
        for r, row, past in zip(requests, self.table, self.past):
            position = torch.arange(r.computed + r.rows)
            block, offset = row[position // block_size].long(), position % block_size
            for view, rows in zip(views, past):
                view[block[: r.computed], offset[: r.computed]] = rows
            self.slots[first : first + r.rows] = (block * block_size + offset)[r.computed :]
            first += r.rows
        for name in ("table", "kv_cache", "query", "key", "value", "slots"):
            setattr(self, name, getattr(self, name).to(device))

    def oracle(self) -> torch.Tensor:
        out, first = [], 0
        for r, past in zip(self.requests, self.past):
            new = torch.stack((self.key, self.value))[:, first : first + r.rows].cpu()
            keys, values = torch.cat((past, new), 1).double().repeat_interleave(HEADS // KV_HEADS, 2)
            for row in range(r.rows):
                seen = r.seen_by(row)
                query = self.query[first + row].double().cpu()
                weights = (torch.einsum("hd,lhd->hl", query, keys[seen]) * HEAD_DIM**-0.5).softmax(-1)
                out.append(torch.einsum("hl,lhd->hd", weights, values[seen]))
            first += r.rows
        return torch.stack(out)

    def common(self) -> CommonAttentionMetadata:
        device = self.table.device
        starts = torch.from_numpy(np.append(0, np.cumsum(self.rows)).astype(np.int32))
        lengths = torch.tensor([r.computed + r.rows for r in self.requests], dtype=torch.int32)
        return CommonAttentionMetadata(
            query_start_loc=starts.to(device),
            query_start_loc_cpu=starts,
            seq_lens=lengths.to(device),
            num_reqs=len(self.requests),
            num_actual_tokens=int(self.rows.sum()),
            max_query_len=int(self.rows.max()),
            max_seq_len=int(lengths.max()),
            block_table_tensor=self.table,
            slot_mapping=self.slots,
        )


def trees_of(requests: list[Request]) -> StepTrees:
    return StepTrees.of([Draft(np.array(r.parents), np.full(len(r.parents), np.nan)) for r in requests])


def attended(step: Step, verification: NodeVerification, vllm_config) -> tuple[torch.Tensor, object]:
    """What a layer puts out, and the metadata it was given."""
    block_size, device = step.kv_cache.shape[2], step.table.device
    spec = FullAttentionSpec(block_size=block_size, num_kv_heads=KV_HEADS, head_size=HEAD_DIM, dtype=torch.float32)
    builder = TreeAttentionBackend.get_builder_cls()(spec, [], vllm_config, device)
    builder.verification = verification
    metadata = builder.build(0, step.common())
    impl = TreeAttentionBackend.get_impl_cls()(HEADS, HEAD_DIM, HEAD_DIM**-0.5, KV_HEADS, None, None, "auto")
    scale = torch.ones((), device=device)
    layer = SimpleNamespace(_q_scale=scale, _k_scale=scale, _v_scale=scale)
    impl.do_kv_cache_update(layer, step.key, step.value, step.kv_cache, step.slots)
    output = torch.full_like(step.query, 7.0)
    impl.forward(layer, step.query, step.key, step.value, step.kv_cache, metadata, output=output)
    return output, metadata


@pytest.mark.parametrize("heads_first", [False, True], ids=["positions_first", "heads_first"])
@pytest.mark.parametrize("block_size", [16, 128])
@pytest.mark.parametrize("name", batches())
def test_every_row_sees_what_it_should(name, block_size, heads_first, kernels, device, vllm_config):
    requests, alone = batches()[name]
    step = Step(requests, block_size, heads_first, device)
    verification, trees = NodeVerification([]), trees_of(requests)
    verification.begin(trees, step.rows, np.array([r.computed + r.extra for r in requests]))
    output, metadata = attended(step, verification, vllm_config)
    assert (metadata.trees.rows is None) == alone
    torch.testing.assert_close(output[:-PADDING].double().cpu(), step.oracle(), atol=2e-5, rtol=2e-5)
    assert (output[-PADDING:] == 7).all()


def test_chains_are_left_to_vllm(kernels, device, vllm_config, monkeypatch):
    requests = [Request(5, 16, DECODE), Request(9, 0, chain(4)), Request(40, 0, DECODE)]
    step = Step(requests, 16, False, device)
    verification = NodeVerification([])
    verification.begin(trees_of(requests), step.rows, np.array([r.computed + r.extra for r in requests]))
    output, metadata = attended(step, verification, vllm_config)
    assert metadata.trees is None
    torch.testing.assert_close(output[:-PADDING].double().cpu(), step.oracle(), atol=2e-5, rtol=2e-5)


def test_a_batch_that_no_one_announced_is_left_to_vllm(kernels, device, vllm_config):
    """A dummy batch between two steps, say."""
    requests = [Request(33, 0, FORK)]
    step = Step(requests, 16, False, device)
    verification = NodeVerification([SimpleNamespace(kv_cache=step.kv_cache)])
    assert attended(step, verification, vllm_config)[1].trees is None
    verification.begin(trees_of(requests), step.rows, np.array([33]))
    nodes = torch.tensor([[1, 2, -1, -1]], dtype=torch.int32, device=device)
    verification.on_device(step.table)
    verification.commit(SimpleNamespace(lengths=nodes.new_tensor([2]), nodes=nodes))
    assert attended(step, verification, vllm_config)[1].trees is None
