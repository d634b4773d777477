"""Options of the commands that measure, made as those of training are."""

from vllm_specflash.train.option import option

__all__ = ["DTYPES", "option"]

# Of targets, as vLLM calls them.
DTYPES = ("bfloat16", "float16", "float32")
