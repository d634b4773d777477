"""The frozen target: samples in, final hidden states out."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, PreTrainedConfig

from vllm_specflash.config import SpecFlashError, first_sentence
from vllm_specflash.train.answers import Answer
from vllm_specflash.train.families import family_of
from vllm_specflash.train.families.family import Encoding
from vllm_specflash.train.skipped import Unusable


@dataclass
class Sample:
    """One teacher-forced sequence: prompt and answer in ids [L]; the answer starts at `answer_start`."""

    id: str
    task: str
    input_ids: Tensor
    answer_start: int
    spans: list[tuple[int, int]]
    pixels: dict[str, Tensor]
    greedy: bool

    def __len__(self) -> int:
        return len(self.input_ids)


def target_name(path: str) -> str:
    """The hub id, or the folder's own name: what the engine compares with the model it serves."""
    return Path(path).resolve().name if Path(path).is_dir() else path


def target_config(path: str) -> PreTrainedConfig:
    """The target's config.json. Raises SpecFlashError where there is none."""
    try:
        return AutoConfig.from_pretrained(path)
    except (OSError, ValueError) as error:
        raise SpecFlashError(
            f"There is no target at {str(path)!r} that transformers can read ({first_sentence(error)}): name a checkpoint "
            "folder or a hub id."
        ) from error


class Target:
    """A target checkpoint under transformers, in bfloat16 and without gradients.

    Args:
        layers: whose inputs are told beside the final hidden states (config.trained_layers).

    Attributes:
        embedding: [V, D], the input embedding table.
        lm_head: [V, D].
    """

    def __init__(self, path: str, dtype: torch.dtype = torch.bfloat16, layers: list[int] | None = None):
        self.path, self.config, self.layers = str(path), target_config(path), layers or []
        self.family = family_of(self.config, self.path)
        self.model = self.family.load_model(dtype).requires_grad_(False)
        self.embedding = self.model.get_input_embeddings().weight
        self.lm_head = self.model.get_output_embeddings().weight

    @property
    def name(self) -> str:
        return target_name(self.path)

    def to(self, device: torch.device) -> "Target":
        self.model.to(device)
        self.embedding = self.model.get_input_embeddings().weight
        self.lm_head = self.model.get_output_embeddings().weight
        return self

    @property
    def feature_size(self) -> int:
        """Width of `hidden_states`."""
        return self.text_config.hidden_size * (1 + len(self.layers))

    @property
    def text_config(self):
        return self.config.get_text_config()

    def sample(self, answer: Answer, max_length: int) -> Sample:
        """Teacher-forced sequence of an answer. Raises ValueError when it is longer than `max_length`."""
        encoding: Encoding = self.family.encode(answer.prompt)
        ids = torch.cat((encoding.input_ids, torch.tensor(answer.token_ids)))
        if len(ids) > max_length:
            raise Unusable(f"prompt and answer are longer than {max_length} tokens")
        prompt = answer.prompt
        start = len(encoding.input_ids)
        return Sample(prompt.id, prompt.task, ids, start, encoding.spans, encoding.pixels, answer.temperature == 0)

    @torch.no_grad()
    def hidden_states(self, samples: list[Sample], layers: list[int] | None = None) -> Tensor:
        """Final hidden states, after the last norm, then those of `layers`, self.layers if not given: [B, longest L, (1 + n) D], zeros
        where a sample has ended."""
        layers = self.layers if layers is None else layers
        device = self.embedding.device
        ids = pad_sequence([sample.input_ids for sample in samples], batch_first=True).to(device)
        lengths = torch.tensor([len(sample) for sample in samples], device=device)
        mask = torch.arange(ids.shape[1], device=device) < lengths[:, None]
        pixels = self.family.batch_pixels([sample.pixels for sample in samples])
        pixels = {
            name: value.to(device, self.embedding.dtype if value.is_floating_point() else None)
            for name, value in pixels.items()
        }
        if pixels:
            pixels.update(self.family.position_inputs(ids))
        found = self.model.model(
            input_ids=ids, attention_mask=mask.long(), use_cache=False, output_hidden_states=bool(layers), **pixels
        )
        hidden = torch.cat([found.last_hidden_state, *(found.hidden_states[layer] for layer in layers)], dim=-1)
        return hidden * mask[..., None]
