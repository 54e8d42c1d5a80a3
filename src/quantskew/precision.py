"""Full float32 precision on a GPU, whose convolutions otherwise round to ten bits (TF32).

This is for measuring, not for training. On an H200, TF32 changed the largest eigenvalue of an
untrained ResNet-18 by a relative 4e-4. The solver, with a tolerance of 1e-3, reported a residual of
9.8e-4, but in double precision it was 1.5e-2; in full precision both agree.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def all_digits() -> Iterator[None]:
    """Compute convolutions and matrix products on a GPU in IEEE 754 float32; also a decorator."""
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
