"""Which adapter each row of a step's logits is for."""

import numpy as np
from vllm.v1.worker.gpu.lora_utils import LoraState


class NodeLoraState(LoraState):
    """vLLM's, which counts one row of logits per request; drafts give a request a row per node.

    Attributes:
        node_bounds: [R + 1] of the step at hand, request r owning rows node_bounds[r] to node_bounds[r + 1].
    """

    node_bounds: np.ndarray

    def make_lora_inputs(self, req_ids, idx_mapping, num_scheduled_tokens):
        """As vLLM's: adapters of the rows of logits, adapters of the tokens, and the requests for them."""
        _, of_tokens, requests = super().make_lora_inputs(req_ids, idx_mapping, num_scheduled_tokens)
        return tuple(self.lora_ids[idx_mapping].repeat(np.diff(self.node_bounds))), of_tokens, requests
