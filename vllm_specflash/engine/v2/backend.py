"""The attention backend that verifies trees: vLLM's Triton one, with tree_attention for the requests that lead a batch.

Requests with at most W rows come first in every batch of Model Runner V2. Those are trees, whatever they are: chains, plain
decodes and short prompts among them; a uniform batch, which is what full CUDA graphs are captured for, is trees throughout.
The other rows, long prompts, are vLLM's own.
"""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor
from vllm.v1.attention.backend import AttentionCGSupport
from vllm.v1.attention.backends.triton_attn import (
    TritonAttentionBackend,
    TritonAttentionImpl,
    TritonAttentionMetadataBuilder,
)

from vllm_specflash.triton_kernels.tree_attention import tree_attention
from vllm_specflash.triton_kernels.tree_rows import TreeRows


def keys_and_values(kv_cache: Tensor) -> tuple[Tensor, Tensor]:
    """Views [num_blocks, block_size, Hkv, Dh] of what vLLM's Triton attention keeps as [num_blocks, Hkv, block_size, 2 Dh]."""
    return kv_cache.transpose(1, 2).split(kv_cache.shape[-1] // 2, dim=-1)


@dataclass(frozen=True)
class LeadingTrees:
    """The requests of one batch that are trees.

    Attributes:
        rows: of the step; persistent.
        count, num_rows: how many requests, and their rows.
        width: W; no request of them has more rows.
        rest: metadata of the other requests; None where there are none.
    """

    rows: TreeRows
    count: int
    num_rows: int
    width: int
    rest: object | None


class TreeAttentionImpl(TritonAttentionImpl):
    def forward(self, layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs):
        trees: LeadingTrees | None = getattr(attn_metadata, "trees", None)
        if trees is None:
            return super().forward(layer, query, key, value, kv_cache, attn_metadata, output, *args, **kwargs)
        n = trees.num_rows
        if trees.rest is not None:
            super().forward(layer, query[n:], key, value, kv_cache, trees.rest, output[n:], *args, **kwargs)
        tree_attention(
            query[:n],
            *keys_and_values(kv_cache),
            attn_metadata.block_table[: trees.count],
            trees.rows.context_lens[: trees.count],
            attn_metadata.query_start_loc[: trees.count + 1],
            trees.rows.ancestors[:n],
            self.scale,
            out=output[:n].view(n, self.num_heads, self.head_size),
            # Not what this batch has at most: every other bound would be a kernel of its own, compiled inside a request.
            max_num_nodes=trees.width,
        )
        return output

    def do_kv_cache_update(self, layer, key, value, kv_cache, slot_mapping):
        if key.is_cuda:
            return super().do_kv_cache_update(layer, key, value, kv_cache, slot_mapping)
        # vLLM's kernel for it asks for a GPU's properties.
        kept = slot_mapping >= 0
        slots, rows = slot_mapping[kept], kept.nonzero()[:, 0]
        for cache, new in zip(keys_and_values(kv_cache), (key, value)):
            cache[slots // cache.shape[1], slots % cache.shape[1]] = new[rows]

    def fused_output_quant_supported(self, quant_key) -> bool:
        # Rows of trees would have to be quantised like the others.
        return False


class TreeMetadataBuilder(TritonAttentionMetadataBuilder):
    """
    Attributes:
        rows: what prepare_attn writes for every step, and W; set once the runner has a KV cache.
        width: W, nodes of a tree with its root.
    """

    rows: TreeRows | None = None
    width = 0

    @classmethod
    def get_cudagraph_support(cls, vllm_config, kv_cache_spec) -> AttentionCGSupport:
        return AttentionCGSupport.UNIFORM_BATCH

    @classmethod
    def get_varlen_cudagraph_max_query_len(cls, vllm_config, kv_cache_spec) -> int:
        # Our kernel reads how many rows a request has on the device: what adaptive verification trims there, it sees.
        return vllm_config.speculative_config.num_speculative_tokens + 1

    def build(self, common_prefix_len, common_attn_metadata, *args, **kwargs):
        metadata = super().build(common_prefix_len, common_attn_metadata, *args, **kwargs)
        metadata.trees = self._leading_trees(common_attn_metadata) if self.rows is not None else None
        return metadata

    def _leading_trees(self, common) -> LeadingTrees | None:
        bounds = common.query_start_loc_cpu.numpy()[: common.num_reqs + 1]
        lengths = np.diff(bounds)
        count = leading(lengths, self.width)
        if not count:
            return None
        if count == common.num_reqs:
            return LeadingTrees(self.rows, count, common.num_actual_tokens, self.width, None)
        rows = int(bounds[count])
        rest = super().build(0, after(common, count, rows))
        return LeadingTrees(self.rows, count, rows, self.width, rest)


class TreeAttentionBackend(TritonAttentionBackend):
    """Keeps the name of vLLM's: all that vLLM knows of its Triton backend is true of this one."""

    @staticmethod
    def get_impl_cls() -> type[TreeAttentionImpl]:
        return TreeAttentionImpl

    @staticmethod
    def get_builder_cls() -> type[TreeMetadataBuilder]:
        return TreeMetadataBuilder


def leading(lengths: np.ndarray, width: int) -> int:
    """How many of the first requests have at most `width` rows; lengths [R]."""
    longer = np.flatnonzero(lengths > width)
    return int(longer[0]) if len(longer) else len(lengths)


def after(common, requests: int, rows: int):
    """CommonAttentionMetadata without the batch's first requests, which own so many rows."""
    return replace(
        common,
        query_start_loc=common.query_start_loc[requests:] - rows,
        query_start_loc_cpu=common.query_start_loc_cpu[requests:] - rows,
        seq_lens=common.seq_lens[requests:],
        num_reqs=common.num_reqs - requests,
        num_actual_tokens=common.num_actual_tokens - rows,
        block_table_tensor=common.block_table_tensor[requests:],
        slot_mapping=common.slot_mapping[rows:],
    )
