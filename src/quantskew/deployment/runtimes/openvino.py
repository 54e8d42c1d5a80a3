"""OpenVINO's intermediate representation."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantskew.deployment.runtimes.network import NOTES, PIXELS, Network, Port, Weight

_LAYERS = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
_FOLLOWED = ("Convert", "Subtract", "Multiply", "Reshape", "Transpose", "FakeQuantize")


class OpenVINO(
    Network,
    suffix=".xml",
    runtime="OpenVINO",
    library="openvino",
    install="quantskew[openvino]",
):
    """An ``.xml`` file, whose weights are in the ``.bin`` of the same name."""

    def _load(self, threads: int | None) -> tuple[Sequence[Port], Sequence[Port]]:
        import openvino

        core = openvino.Core()
        self.model = core.read_model(self.path)
        options = {"INFERENCE_NUM_THREADS": threads} if threads else {}
        self.compiled = core.compile_model(self.model, "CPU", options)
        self.notes = {
            name: str(self.model.get_rt_info([NOTES, name]).value)
            for name in ("classes", *PIXELS)
            if self.model.has_rt_info([NOTES, name])
        }
        precision = self.compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if precision != "f32":
            self.remarks.append(
                f"OpenVINO computes the floats of {self.path} in {precision} on this machine"
            )
        return [*map(_port, self.compiled.inputs)], [*map(_port, self.compiled.outputs)]

    def _run(self, batch: np.ndarray) -> np.ndarray:
        answer: np.ndarray = self.compiled([batch])[self.compiled.outputs[self.place]]
        return answer

    def parts(self) -> list[Path]:
        """List the file and the one that holds its weights."""
        weights = self.path.with_suffix(".bin")
        return [self.path, *([weights] if weights.is_file() else [])]

    def weights(self) -> list[Weight]:
        """List the stored weights of convolutions and matrix products."""
        found = []
        for operator in self.model.get_ops():
            if operator.get_type_name() not in _LAYERS:
                continue
            source = operator.input_value(1).get_node()
            while source.get_type_name() in _FOLLOWED:
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Constant":
                kind = source.get_element_type()
                count = float(np.prod(source.get_output_shape(0)))
                found.append(Weight(kind.is_integral(), kind.bitwidth, count))
        return found


def _port(item: Any) -> Port:
    shape = item.partial_shape
    sizes: tuple[int | None, ...] = ()
    if shape.rank.is_static:
        sizes = tuple(None if size.is_dynamic else size.get_length() for size in shape)
    try:
        dtype = np.dtype(item.element_type.to_dtype())
    except (RuntimeError, TypeError):  # texts, and numbers that numpy has not
        dtype = np.dtype(object)
    name = item.any_name if item.names else item.node.friendly_name
    return Port(name, sizes, dtype)
