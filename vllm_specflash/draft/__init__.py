"""The draft network and its checkpoint format. Pure torch and transformers: this package never imports vLLM.

Importing it registers `model_type: specflash` with transformers' AutoConfig and AutoModel.
"""

from transformers import AutoConfig, AutoModel

from vllm_specflash.draft.config import SpecFlashConfig
from vllm_specflash.draft.model import SpecFlashDraft

AutoConfig.register(SpecFlashConfig.model_type, SpecFlashConfig, exist_ok=True)
AutoModel.register(SpecFlashConfig, SpecFlashDraft, exist_ok=True)

__all__ = ["SpecFlashConfig", "SpecFlashDraft"]
