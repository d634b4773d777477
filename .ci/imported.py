"""Every module of the installed package, imported: one line that says how many load, and what the others want that is not here."""

import importlib
import pkgutil
import sys
from collections import Counter

import torch

import vllm_specflash

names = [found.name for found in pkgutil.walk_packages(vllm_specflash.__path__, "vllm_specflash.")]
wanted: Counter = Counter()
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Another package is not here; one of our own would be a fault.
        if error.name is None or error.name.startswith("vllm_specflash"):
            raise
        wanted[error.name.split(".")[0]] += 1

from vllm_specflash.draft import SpecFlashConfig, SpecFlashDraft  # noqa: E402
from vllm_specflash.draft.attention import dense_causal_attention  # noqa: E402

config = SpecFlashConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=8, target_vocab_size=50)
draft = SpecFlashDraft(config)
rows = draft.layer(torch.randn(1, 2, 32), torch.arange(2)[None], dense_causal_attention)
assert draft.predict(rows[:, -1]).isfinite().all()
others = "".join(f", {count} want {name}" for name, count in sorted(wanted.items()))
loaded = len(names) - wanted.total()
assert loaded > 100, others
print(f"Python {sys.version_info[0]}.{sys.version_info[1]}: with torch {torch.__version__} {loaded} modules load and a draft drafts{others}")
