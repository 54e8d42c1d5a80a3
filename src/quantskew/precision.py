"""All digits of float32 on a GPU, whose convolutions else keep ten bits of them (TF32).

For measuring, not for training. With TF32, on an H200, the largest eigenvalue of an untrained
ResNet-18 was off by 4e-4 of itself, and its residual in double precision was 1.5e-2 where the
solver, held to 1e-3, saw 9.8e-4; with all digits it was what the solver saw.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def all_digits() -> Iterator[None]:
    """Compute convolutions and matrix products on a GPU as IEEE 754 says; also a decorator."""
    kinds = (torch.backends.cudnn.conv, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision
