"""Which people a quantized image classifier leaves behind, why, and what it costs to fix it.

The names of the Python interface, and the modules, are loaded when they are first used, so that a
program that wants none of them does not wait for torch, nor needs it.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING, Any

from quantskew.errors import extras

if TYPE_CHECKING:
    __version__: str
    from quantskew.answers.judging import compare_answers
    from quantskew.api import audit, compare, quantize
    from quantskew.compat import (
        FairnessAwareQuantizer,
        apply_quantization,
        compare_quantization_methods,
        compute_fairness_metrics,
    )
    from quantskew.deployment.several import compare_runtimes

_PLACES = {
    "answers.judging": ("compare_answers",),
    "api": ("audit", "compare", "quantize"),
    "compat": (
        "FairnessAwareQuantizer",
        "apply_quantization",
        "compare_quantization_methods",
        "compute_fairness_metrics",
    ),
    "deployment.several": ("compare_runtimes",),
}
"""Names of the interface by the module that defines them."""

__all__ = [
    "FairnessAwareQuantizer",
    "__version__",
    "apply_quantization",
    "audit",
    "compare",
    "compare_answers",
    "compare_quantization_methods",
    "compare_runtimes",
    "compute_fairness_metrics",
    "quantize",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("quantskew")
    for place, names in _PLACES.items():
        if name in names:
            return getattr(submodule("quantskew", place), name)
    return submodule("quantskew", name)


def submodule(package: str, name: str) -> ModuleType:
    """Import a module of a package as its attribute; an ``AttributeError`` says there is none.

    A :class:`~quantskew.errors.MissingExtraError` names a library that it needs and lacks.
    """
    path = f"{package}.{name}"
    with extras():
        try:
            return importlib.import_module(path)
        except ModuleNotFoundError as error:
            if error.name != path:
                raise
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
