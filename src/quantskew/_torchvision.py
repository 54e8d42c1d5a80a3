"""Make ``import torchvision`` work beside a CPU build of torch.

The torchvision wheel on PyPI is built for the CUDA build of torch. With the CPU build its operator
library does not load, and the import fails where fake kernels are registered for two undeclared
operators. Once these are declared, the rest loads: transforms, datasets, models, and timm, which
needs them. The compiled operators (``ops.nms``, ``io.decode_*``) remain unusable, but nothing here
uses them. Import torchvision from here, and timm only after that.

None of this can be done before torch loads, for which ``import quantskew`` does not wait. So there
``import torchvision`` and ``import timm`` work after a name that needs networks is loaded (``from
quantskew import audit``), and fail before, as without quantskew. ``quantskew doctor`` says so.
"""

import torch

FITS = True
"""Whether torchvision is built for this torch."""
try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    FITS = False
    boxes = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
    for operator in ("nms", "qnms"):
        torch.library.define(f"torchvision::{operator}", boxes)
    import torchvision

__all__ = ["torchvision"]
