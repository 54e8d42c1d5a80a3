"""Which people a quantized image classifier leaves behind, why, and what it costs to fix it.

The names of the Python interface are loaded when they are first used, so that a program that wants
none of them does not wait for torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantskew.answers.judging import compare_answers
    from quantskew.api import audit, compare, quantize
    from quantskew.compat import (
        FairnessAwareQuantizer,
        apply_quantization,
        compare_quantization_methods,
        compute_fairness_metrics,
    )

__all__ = [
    "FairnessAwareQuantizer",
    "apply_quantization",
    "audit",
    "compare",
    "compare_answers",
    "compare_quantization_methods",
    "compute_fairness_metrics",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'quantskew' has no attribute {name!r}")
    module = "api" if name in ("audit", "compare", "quantize") else "compat"
    module = "answers.judging" if name == "compare_answers" else module
    return getattr(importlib.import_module(f"quantskew.{module}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
