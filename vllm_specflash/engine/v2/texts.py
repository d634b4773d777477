"""Where requests' texts lie: on the device, where drafts copy out of them."""

import inspect
from contextlib import AbstractContextManager, nullcontext

from vllm.logger import init_logger
from vllm.v1.worker.gpu import model_runner

from vllm_specflash.engine.hooks import replaced

logger = init_logger("vllm.specflash")

# Of device memory that texts may take, a token in four bytes.
MOST_BYTES = 1 << 30


def texts_on_device(vllm_config) -> AbstractContextManager:
    """Inside, a model runner that is made for drafts that copy keeps `RequestState.all_token_ids` on the device.

    vLLM does so for its own n-gram method alone. Elsewhere texts are pinned host memory that the device reads: fine for a few tokens a
    step, but find_copies reads them whole. vLLM before 0.32 cannot be asked to.
    """
    table, model = model_runner.RequestState, vllm_config.model_config
    if not vllm_config.speculative_config.specflash.looks_up(model.is_multimodal_model):
        return nullcontext()
    if "use_dense_all_token_ids" not in inspect.signature(table).parameters:
        return nullcontext()
    size = 4 * vllm_config.scheduler_config.max_num_seqs * model.max_model_len
    if size > MOST_BYTES:
        logger.warning(
            "Requests' texts stay in host memory, where copies are found slowly: they may take %.1f GiB. Lower --max-num-seqs or "
            '--max-model-len, or set "lookup": false.',
            size / 2**30,
        )
        return nullcontext()
    return replaced(model_runner, "RequestState", lambda **given: table(**{**given, "use_dense_all_token_ids": True}))
