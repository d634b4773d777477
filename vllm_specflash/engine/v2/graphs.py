"""The draft's own CUDA graphs: one per number of decoding requests, replayed where a step is nothing but decodes."""

import torch
from vllm.config import CUDAGraphMode
from vllm.logger import init_logger
from vllm.platforms import current_platform

logger = init_logger("vllm.specflash")

# A graph for every number of requests up to 4, for every fourth up to 32, for every sixteenth beyond.
STEPS = ((4, 1), (32, 4), (None, 16))


def graph_sizes(most: int) -> list[int]:
    """Numbers of requests that graphs are captured for, ascending, the largest of them `most`."""
    sizes, size = [], 0
    for end, step in STEPS:
        end = most if end is None else min(end, most)
        while size < end:
            size = min(size + step, end)
            sizes.append(size)
    return sizes


class DraftGraphs:
    """
    Args:
        speculator: whose draft_step is captured; all it reads and writes keeps its address.
    """

    def __init__(self, speculator):
        self._speculator = speculator
        self._sizes: list[int] = []
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}

    def choose_sizes(self, cudagraph_mode: CUDAGraphMode) -> None:
        """Called when vLLM has settled on how it uses graphs itself; graphs captured before belong to another KV cache."""
        self._graphs.clear()
        speculator = self._speculator
        uses_graphs = cudagraph_mode != CUDAGraphMode.NONE and speculator.device.type == "cuda"
        most = speculator.vllm_config.scheduler_config.max_num_batched_tokens // speculator.width
        self._sizes = graph_sizes(min(speculator.max_num_reqs, most)) if uses_graphs else []

    def capture(self) -> None:
        """Capture the largest first, so that all share its memory."""
        speculator, pool = self._speculator, current_platform.get_global_graph_pool()
        for size in reversed(self._sizes):
            rows = size * speculator.width
            for _ in range(2):
                # Twice without: Triton compiles and cuBLAS allocates before anything is recorded.
                speculator.draft_step(rows, size)
            torch.accelerator.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                speculator.draft_step(rows, size)
            self._graphs[size] = graph
        if self._sizes:
            logger.info("SpecFLASH captured its draft for %d batch sizes up to %d", len(self._sizes), self._sizes[-1])

    def replay(self, batch) -> bool:
        """Draft for a batch by its graph; False where there is none for it, and nothing was done."""
        if not self._graphs or batch.is_prefilling_np.any():
            return False
        size = next((size for size in self._sizes if size >= batch.num_reqs), None)
        if size is None or batch.num_tokens > size * self._speculator.width:
            return False
        self._graphs[size].replay()
        return True
