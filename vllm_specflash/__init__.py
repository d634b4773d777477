"""SpecFLASH speculative decoding for vision-language models, as a plugin of stock vLLM."""
