"""The ops of SpecFLASH, one per file: formula, CPU path, Triton kernel and the dispatcher that picks by device.

Files whose names begin with an underscore hold what several of them share, or the kernel of an op too long for one file.

Import an op from its own module, `from vllm_specflash.triton_kernels.draft_attention import draft_attention`: nothing
is imported here, so that a user of one op does not pay for the others.
"""

if __name__ == "triton_kernels":
    # vLLM probes for a top-level package of this name (OpenAI's MoE kernels) and would import ours in its place.
    raise ImportError(
        "triton_kernels is part of vllm_specflash and must not be importable at top level: take the repository root off "
        "sys.path and import vllm_specflash.triton_kernels."
    )
