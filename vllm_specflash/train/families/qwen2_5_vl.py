"""Qwen2.5-VL: dynamic image sizes, so that the processor says how many tokens each image has."""

from torch import Tensor

from vllm_specflash.train.families.vision import VisionFamily


class Qwen2_5_VLFamily(VisionFamily):
    pixel_names = ("pixel_values", "image_grid_thw")

    def span_lengths(self, features: dict[str, Tensor]) -> list[int]:
        merge = self.config.vision_config.spatial_merge_size
        return [int(grid.prod()) // merge**2 for grid in features["image_grid_thw"]]
