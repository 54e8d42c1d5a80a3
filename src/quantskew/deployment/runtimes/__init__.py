"""Files of networks on the runtimes that execute them, one file a runtime.

============  ================================  ==========================
suffix        runtime                           installed by
============  ================================  ==========================
``.onnx``     ONNX Runtime                      ``quantskew[onnx]``
``.tflite``   LiteRT, once TensorFlow Lite      ``quantskew[litert]``
``.xml``      OpenVINO, with its ``.bin``       ``quantskew[openvino]``
``.pt2``      programs of ``torch.export``      ``quantskew[study]``
============  ================================  ==========================
"""

from importlib import import_module
from pkgutil import iter_modules

from quantskew.deployment.runtimes.network import (
    BATCH,
    BLOCK,
    MINIMUM_INTEGER,
    PIXELS,
    FileError,
    Layout,
    Network,
    Weight,
    check_width,
    closest,
    inventory,
    open_file,
    share_by_type,
)

for _module in iter_modules(__path__):  # each runtime registers itself
    import_module(f"{__name__}.{_module.name}")

__all__ = [
    "BATCH",
    "BLOCK",
    "MINIMUM_INTEGER",
    "PIXELS",
    "FileError",
    "Layout",
    "Network",
    "Weight",
    "check_width",
    "closest",
    "inventory",
    "open_file",
    "share_by_type",
]
