"""Qwen2.5-VL: dynamic image sizes, so that the processor says how many tokens each image has."""

from torch import Tensor

from vllm_specflash.train.families.family import placeholder_runs
from vllm_specflash.train.families.vision import VisionFamily


class Qwen2_5_VLFamily(VisionFamily):
    pixel_names = ("pixel_values", "image_grid_thw")

    def span_lengths(self, features: dict[str, Tensor]) -> list[int]:
        merge = self.config.vision_config.spatial_merge_size
        return [int(grid.prod()) // merge**2 for grid in features["image_grid_thw"]]

    def position_inputs(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Which tokens are visual: without it transformers leaves M-RoPE out, and the features are not the target's."""
        return {"mm_token_type_ids": (input_ids == self.image_token_id).int()}

    def spans(self, input_ids: Tensor, num_images: int) -> list[tuple[int, int]]:
        """Every image and video stands between two marks of its own: a run of placeholders is a span."""
        tokens = (self.image_token_id, self.config.video_token_id)
        runs = sorted(run for token in tokens for run in placeholder_runs(input_ids, token))
        if len(runs) != num_images:
            raise ValueError("the prompt's placeholders do not match its images")
        return [(start, end - start) for start, end in runs]
