"""ONNX files, by ONNX Runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from quantskew.deployment.runtimes.network import Network, Port, Weight

if TYPE_CHECKING:
    import onnxruntime

_NAMES = {"float": "float32", "double": "float64"}  # others are as in numpy


class OnnxRuntime(
    Network,
    suffix=".onnx",
    runtime="ONNX Runtime",
    library="onnxruntime",
    install="quantskew[onnx]",
):
    """An ONNX file: float, QDQ or with integer operators."""

    def _load(self, threads: int | None) -> tuple[Sequence[Port], Sequence[Port]]:
        self.session = session(self.path, threads=threads)
        self.notes = dict(self.session.get_modelmeta().custom_metadata_map)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        return [*map(_port, inputs)], [*map(_port, outputs)]

    def _run(self, batch: np.ndarray) -> np.ndarray:
        answer: np.ndarray
        (answer,) = self.session.run([self.output.name], {self.input.name: batch})
        return answer

    def parts(self) -> list[Path]:
        """List the file and those beside it that hold its weights."""
        from quantskew.deployment import onnx_graph

        return onnx_graph.parts(self.path)

    def weights(self) -> list[Weight]:
        """List the stored weights of convolutions and matrix products."""
        from quantskew.deployment import onnx_graph

        return [Weight(*one) for one in onnx_graph.stored(onnx_graph.read(self.path))]


def session(
    file: Path | bytes, *, threads: int | None = None, profile: str | None = None
) -> "onnxruntime.InferenceSession":
    """Load a file, or its content, for the CPU; ``profile`` is the prefix of a trace file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    given = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])


def _port(item: Any) -> Port:
    kind = item.type.removeprefix("tensor(").removesuffix(")")
    try:
        dtype = np.dtype(_NAMES.get(kind, kind))
    except TypeError:  # texts, sequences, and types that numpy has not
        dtype = np.dtype(object)
    sizes = tuple(size if isinstance(size, int) else None for size in item.shape)
    return Port(item.name, sizes, dtype)
