"""Lets a CUDA build of torchvision be imported beside a CPU build of torch.

torchvision registers fake kernels for two of its C++ operators when it is imported, and fails ("operator
torchvision::nms does not exist") where its C++ library could not be loaded. Declaring the two schemas first is
enough: vLLM and transformers use none of the operators on the paths a CPU serves.

Nothing here is imported unless cpu_setup.py put the hook into the environment.
"""

import importlib.abc
import sys

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


class TorchvisionFinder(importlib.abc.MetaPathFinder):
    """Declares the operators when `torchvision` is first looked for, then steps aside."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare_operators()
        return None


def install() -> None:
    """Add the finder once per process; costs nothing until torchvision is imported."""
    if not any(isinstance(finder, TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, TorchvisionFinder())


def _declare_operators() -> None:
    import torch

    if torch.version.cuda is not None:
        return
    # FRAGMENT libraries live as long as this object: keep it on the module.
    global _library
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in SCHEMAS:
        _library.define(schema)
