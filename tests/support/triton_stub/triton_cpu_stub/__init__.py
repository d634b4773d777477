"""A Triton backend for CPUs in name only: enough for vLLM to believe that Triton runs here, while its interpreter does.

vLLM asks whether a backend named `cpu` is registered and active, nothing more. With TRITON_INTERPRET=1 no backend is ever
asked to compile, so that stock vLLM starts on model runner V2 with every kernel interpreted.
"""
