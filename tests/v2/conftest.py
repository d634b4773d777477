"""The real engine on Model Runner V2, its kernels and ours interpreted. Run by `make v2`, in a process of its own."""

import os

import v2

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
v2.use_interpreter()

import pytest  # noqa: E402


@pytest.fixture(autouse=True)
def v2_engines(monkeypatch):
    v2.keep_async_scheduling(monkeypatch)
    v2.without_sorting_kernel(monkeypatch)
