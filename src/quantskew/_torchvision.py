"""Make ``import torchvision`` work beside a CPU build of torch.

The wheel of torchvision from the Python index is built against the CUDA build of torch. Beside the
CPU build its operator library does not load, and the import stops at registering fake kernels for
two operators that are then undeclared. Declaring them lets the rest load: transforms, datasets,
models, and timm on top. The compiled operators themselves (``ops.nms``, ``io.decode_*``) stay
unusable; nothing here uses them. Import torchvision from here, and timm only after that.
"""

import torch

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", boxes)
    import torchvision

__all__ = ["torchvision"]
