"""LLaVA: a fixed number of visual tokens per image, known from the vision tower's shape."""

from torch import Tensor

from vllm_specflash.train.families.vision import VisionFamily


class LlavaFamily(VisionFamily):
    def span_lengths(self, features: dict[str, Tensor]) -> list[int]:
        vision = self.config.vision_config
        patches = (vision.image_size // vision.patch_size) ** 2
        # "full" keeps the class token as a visual token of its own.
        tokens = patches + (self.config.vision_feature_select_strategy == "full")
        return [tokens] * len(features["pixel_values"])
