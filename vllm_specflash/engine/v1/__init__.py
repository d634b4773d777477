"""SpecFLASH on vLLM's V1 model runner, for CPUs without Triton: trees are verified as paths, in spare blocks of vLLM's own attention."""
