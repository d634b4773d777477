"""LLaVA: a fixed number of visual tokens per image, known from the vision tower's shape."""

from torch import Tensor

from vllm_specflash.train.families.family import find_spans
from vllm_specflash.train.families.vision import VisionFamily


class LlavaFamily(VisionFamily):
    def span_lengths(self, features: dict[str, Tensor]) -> list[int]:
        return [self.tokens_per_image] * len(features["pixel_values"])

    def spans(self, input_ids: Tensor, num_images: int) -> list[tuple[int, int]]:
        return find_spans(input_ids, self.image_token_id, [self.tokens_per_image] * num_images)

    @property
    def tokens_per_image(self) -> int:
        vision = self.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        # "full" keeps the class token as a visual token of its own.
        return patches + (self.config.vision_feature_select_strategy == "full")
