"""Paths as sequences see exactly what tree attention sees, over a paged cache of any block size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_specflash.engine.stats import DraftStats
from vllm_specflash.engine.v1.attention import SidePaths
from vllm_specflash.engine.v1.paths import PathSequences, spare_blocks_needed
from vllm_specflash.tree.layout import lay_out
from vllm_specflash.tree.step import Draft, StepTrees
from vllm_specflash.triton_kernels.tree_attention import tree_attention_torch

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8


@st.composite
def steps(draw):
    """Trees in the order of their paths, committed positions before each root, rows before each root, block size."""
    requests = draw(st.integers(1, 3))
    trees, bases, before = [], [], []
    for _ in range(requests):
        nodes = draw(st.integers(0, 9))
        _, laid = lay_out([draw(st.integers(-1, i - 1)) for i in range(nodes)])
        trees.append(Draft([-1, *laid], [np.nan] * (nodes + 1)))
        bases.append(draw(st.integers(0, 20)))
        before.append(min(bases[-1], draw(st.integers(0, 3))))
    return trees, np.array(bases), np.array(before), draw(st.sampled_from([4, 8, 16]))


def _causal(query, keys, values, seq_len, scale):
    """The last rows of one sequence, causally."""
    rows = len(query)
    mask = torch.arange(seq_len) <= torch.arange(seq_len - rows, seq_len)[:, None]
    k, v = (x.repeat_interleave(HEADS // KV_HEADS, 1).transpose(0, 1) for x in (keys, values))
    return torch.nn.functional.scaled_dot_product_attention(query.transpose(0, 1), k, v, mask, scale=scale).transpose(0, 1)


@settings(max_examples=80, deadline=None)
@given(steps(), st.integers(0, 1000))
def test_paths_see_what_tree_attention_sees(step, seed):
    drafts, base, before, size = step
    generator = torch.Generator().manual_seed(seed)
    trees = StepTrees.of(drafts)
    rows = trees.counts + before
    # Own blocks reach one position per drafted node past the root, as the scheduler allots them.
    per_request = int(max(base + trees.counts)) // size + 1
    own = np.arange(len(drafts) * per_request).reshape(len(drafts), -1)[:, ::-1].copy()
    spare = np.arange(own.size, own.size + 40)
    cache = torch.randn(own.size + 40, 2, size, KV_HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    query = torch.randn(int(rows.sum()), HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    key, value = torch.randn(2, int(rows.sum()), KV_HEADS, HEAD_DIM, generator=generator, dtype=torch.float64)
    position = np.concatenate([np.arange(b - extra, b + n) for b, extra, n in zip(base, before, trees.counts)])
    request = np.repeat(np.arange(len(drafts)), rows)
    slots = own[request, position // size] * size + position % size

    def update(keys: torch.Tensor, values: torch.Tensor, at: torch.Tensor) -> None:
        cache[at // size, 0, at % size], cache[at // size, 1, at % size] = keys, values

    side_paths = SidePaths(spare, size, [cache], DraftStats())
    assert side_paths.begin(trees, rows, base)
    paths = side_paths.lay_paths(own)
    side_paths.store(update, key, value, cache, torch.from_numpy(slots))
    flat = [cache[:, part].reshape(-1, KV_HEADS, HEAD_DIM) for part in (0, 1)]

    table, outs, first = paths.block_table(own), [], 0
    for sequence, (length, n) in enumerate(zip(paths.seq_lens, paths.query_lens)):
        at = np.arange(length)
        held = table[sequence, at // size] * size + at % size
        outs.append(_causal(query[first : first + n], flat[0][held], flat[1][held], int(length), 0.3))
        first += n
    found = torch.cat(outs)

    node_rows = (np.cumsum(rows) - trees.counts)[trees.request] + trees.index
    bits = torch.zeros(len(trees.parents), dtype=torch.int64)
    for level in trees.ancestors.T:
        seen = level >= 0
        bits[seen] |= 1 << torch.from_numpy(trees.index[level[seen]])
    expected = tree_attention_torch(
        query[node_rows], cache[:, 0].contiguous(), cache[:, 1].contiguous(), torch.from_numpy(own).int(), torch.from_numpy(base).int(),
        torch.from_numpy(np.append(0, np.cumsum(trees.counts))).int(), bits, 0.3,
    )  # fmt: skip
    torch.testing.assert_close(found[node_rows], expected, rtol=1e-9, atol=1e-9)
    assert first == len(query)


@settings(max_examples=80, deadline=None)
@given(steps(), st.data())
def test_accepted_paths_end_up_where_a_chain_would_lie(step, data):
    drafts, base, before, size = step
    trees = StepTrees.of(drafts)
    rows = trees.counts + before
    per_request = int(max(base + trees.counts)) // size + 1
    own = np.arange(len(drafts) * per_request).reshape(len(drafts), -1)
    spare = np.arange(own.size, own.size + 40)
    paths = PathSequences(trees, rows, base, spare, size)
    # Committed positions hold -1 - position, nodes their flat index.
    cache = np.full((own.size + 40, size), -1000)
    for request, length in enumerate(base):
        at = np.arange(length)
        cache[own[request, at // size], at % size] = -1 - at
    for source, target in zip(paths.copied(own), spare):
        cache[target] = cache[source]
    at = base[trees.request] + trees.index
    cache[own[trees.request, at // size], at % size] = np.arange(len(at))
    # Rows before a root hold what committed positions do.
    flat_of_row = np.concatenate([np.append(-1 - np.arange(b - e, b), np.zeros(n)) for b, e, n in zip(base, before, trees.counts)]).astype(int)
    flat_of_row[(np.cumsum(rows) - trees.counts)[trees.request] + trees.index] = np.arange(len(at))
    written, where = paths.writes
    cache.reshape(-1)[where] = flat_of_row[written]

    last = np.array([data.draw(st.integers(f, f + n - 1)) for f, n in zip(trees.first, trees.counts)])
    for source, target in paths.moves(own, last):
        cache[target] = cache[source]
    for request, node in enumerate(last):
        walk = [n for n in trees.ancestors[node] if n >= 0][::-1]
        at = base[request] + np.arange(len(walk))
        assert cache[own[request, at // size], at % size].tolist() == walk
        at = np.arange(base[request])
        assert cache[own[request, at // size], at % size].tolist() == (-1 - at).tolist()


@pytest.mark.parametrize(("base", "deepest", "blocks"), [(0, 3, 1), (12, 3, 1), (12, 4, 2), (15, 1, 2), (16, 5, 1)])
def test_a_path_needs_a_second_block_where_it_crosses_into_it(base, deepest, blocks):
    assert spare_blocks_needed(base, deepest, 16) == blocks


def test_measuring_a_side_path_writes_to_spare_blocks_alone():
    caches = [torch.randn(6, KV_HEADS, 4, HEAD_DIM) for _ in range(3)]
    before = [cache.clone() for cache in caches]
    assert SidePaths(np.array([4, 5]), 4, caches, DraftStats()).side_path_seconds() > 0
    assert all(torch.equal(cache[:4], was[:4]) for cache, was in zip(caches, before))
