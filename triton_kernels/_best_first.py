"""The kernel of best_tree.py: a best-first search by one program per request, its frontier in registers."""

from ._triton import tl, triton


@triton.jit
def cleaned(said):
    """What the draft says as a chance: NaN is none, and none is above 1."""
    return tl.where(said > 0, tl.minimum(said, 1.0), 0.0)


@triton.jit
def best_cell(
    cells, width, given, after, after_column, is_chain, ratio,
    BLOCK_C: tl.constexpr, BINS: tl.constexpr, CERTAIN: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """(chance, column) of the best of a row's first `width` cells that comes after (after, after_column); chance 0: none does.

    Cells come in the order of their chance, of equal ones the lower column first, so the last one taken says which are left.
    given: chance of the row's parent.
    """
    column = tl.arange(0, BLOCK_C)
    said = cleaned(tl.load(cells + column, mask=column < width, other=0.0))
    chance = given * tl.minimum(said * tl.load(ratio + (said * BINS).to(tl.int32)), CERTAIN)
    left = (chance >= TINY) & ((chance < after) | ((chance == after) & (column > after_column)))
    left = left & ((column == tl.argmax(said, 0)) | (is_chain == 0))
    return tl.max(tl.where(left, chance, 0.0), 0, return_indices=True)


@triton.jit(do_not_specialize=["num_nodes", "levels", "stride_first"])
def best_tree_kernel(
    first, following, deepest, chain, ratio, parents, depths, candidates, chances, conditionals,
    parents_with_root, depths_with_root, ancestors, num_nodes, levels, width,
    stride_first, stride_request, stride_level, stride_candidate,
    BLOCK_N: tl.constexpr, BLOCK_C: tl.constexpr, BINS: tl.constexpr, CERTAIN: tl.constexpr, TINY: tl.constexpr,
):  # fmt: skip
    """One request per program. Of node k's children (k = 0: the root's) the best one left stands in entry k of the frontier."""
    request = tl.program_id(0).to(tl.int64)
    first += request * stride_first
    following += request * stride_request
    limit = tl.minimum(tl.load(deepest + request), levels)
    is_chain = tl.load(chain + request).to(tl.int32)
    k = tl.arange(0, BLOCK_N)
    given = tl.where(k == 0, 1.0, 0.0)
    depth = tl.zeros([BLOCK_N], tl.int32)
    candidate = tl.zeros([BLOCK_N], tl.int32)
    one = tl.full([BLOCK_N], 1, tl.int64)
    bits = tl.where(k == 0, one, 0)
    best, best_column = best_cell(
        first, tl.where(limit > 0, width, 0), 1.0, float("inf"), -1, is_chain, ratio, BLOCK_C, BINS, CERTAIN, TINY
    )
    top = tl.where(k == 0, best, 0.0)
    top_column = tl.where(k == 0, best_column, 0)

    out = request * num_nodes
    out_root = request * (num_nodes + 1)
    tl.store(parents_with_root + out_root, -1)
    tl.store(depths_with_root + out_root, 0)
    tl.store(ancestors + out_root, 1)
    for node in range(1, num_nodes + 1):
        chance, parent = tl.max(top, 0, return_indices=True)
        exists = chance > 0
        at_parent, at_node = k == parent, k == node
        column = tl.where(exists, tl.sum(tl.where(at_parent, top_column, 0), 0), 0)
        parent_chance = tl.sum(tl.where(at_parent, given, 0.0), 0)
        parent_depth = tl.sum(tl.where(at_parent, depth, 0), 0)
        own_depth = parent_depth + 1
        own_bits = tl.sum(tl.where(at_parent, bits, tl.where(at_node, one << k, 0)), 0)
        siblings = following + (parent_depth - 1) * stride_level + tl.sum(tl.where(at_parent, candidate, 0), 0) * stride_candidate
        siblings = tl.where(parent == 0, first, siblings)

        tl.store(parents + out + node - 1, parent - 1)
        tl.store(depths + out + node - 1, own_depth)
        tl.store(candidates + out + node - 1, column)
        tl.store(chances + out + node - 1, chance)
        tl.store(conditionals + out + node - 1, tl.where(exists, cleaned(tl.load(siblings + column)), 0.0))
        tl.store(parents_with_root + out_root + node, parent)
        tl.store(depths_with_root + out_root + node, own_depth)
        tl.store(ancestors + out_root + node, own_bits)

        next_chance, next_column = best_cell(
            siblings, tl.where(exists, width, 0), parent_chance, chance, column, is_chain, ratio,
            BLOCK_C, BINS, CERTAIN, TINY,
        )  # fmt: skip
        children = following + parent_depth * stride_level + column * stride_candidate
        child_chance, child_column = best_cell(
            children, tl.where(exists & (own_depth < limit), width, 0), chance, float("inf"), -1, is_chain, ratio,
            BLOCK_C, BINS, CERTAIN, TINY,
        )  # fmt: skip
        top = tl.where(at_node, child_chance, tl.where(at_parent, next_chance, top))
        top_column = tl.where(at_node, child_column, tl.where(at_parent, next_column, top_column))
        given = tl.where(at_node, chance, given)
        depth = tl.where(at_node, own_depth, depth)
        candidate = tl.where(at_node, column, candidate)
        bits = tl.where(at_node, own_bits, bits)
