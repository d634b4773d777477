"""A `vllm serve` of our own, clients that ask it, and what of a benchmark's speed-up reaches them (`specflash served`)."""
