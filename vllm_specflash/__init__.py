"""SpecFLASH speculative decoding for vision-language models, as a plugin of stock vLLM."""

__version__ = "0.1.0"
