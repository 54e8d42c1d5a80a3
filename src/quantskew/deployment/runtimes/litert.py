"""LiteRT files, which were TensorFlow Lite's."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quantskew.deployment.runtimes.network import NOTES, Network, Port, Weight

_LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")
_BITS = {"INT2": 2, "INT4": 4, "INT8": 8, "UINT8": 8, "INT16": 16, "FLOAT16": 16, "FLOAT32": 32}


class LiteRT(
    Network,
    suffix=".tflite",
    runtime="LiteRT",
    library="ai-edge-litert",
    install="quantskew[litert]",
):
    """A ``.tflite`` file."""

    def _load(self, threads: int | None) -> tuple[Sequence[Port], Sequence[Port]]:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(str(self.path), num_threads=threads)
        self.interpreter.allocate_tensors()
        self.inputs = self.interpreter.get_input_details()
        self.outputs = self.interpreter.get_output_details()
        self.allocated = tuple(self.inputs[0]["shape"])
        self.notes = notes_of(self.path)
        return [*map(_port, self.inputs)], [*map(_port, self.outputs)]

    def _run(self, batch: np.ndarray) -> np.ndarray:
        index = self.inputs[0]["index"]
        if batch.shape != self.allocated:
            self.interpreter.resize_tensor_input(index, batch.shape)
            self.interpreter.allocate_tensors()
            self.allocated = batch.shape
        self.interpreter.set_tensor(index, batch)
        self.interpreter.invoke()
        answer: np.ndarray = self.interpreter.get_tensor(self.outputs[self.place]["index"])
        return answer

    def weights(self) -> list[Weight]:
        """List the stored weights of convolutions and matrix products."""
        from ai_edge_litert import schema_py_generated as schema

        kinds = {code: name for name, code in vars(schema.TensorType).items()}
        operators = {code: name for name, code in vars(schema.BuiltinOperator).items()}
        model = schema.ModelT.InitFromPackedBuf(self.path.read_bytes())
        found = []
        codes = [
            operators.get(max(code.builtinCode, code.deprecatedBuiltinCode))
            for code in model.operatorCodes
        ]
        for graph in model.subgraphs:
            widened = {  # floats that are stored in 16 bits
                operator.outputs[0]: operator.inputs[0]
                for operator in graph.operators
                if codes[operator.opcodeIndex] == "DEQUANTIZE"
            }
            for operator in graph.operators:
                if codes[operator.opcodeIndex] not in _LAYERS:
                    continue
                place = operator.inputs[1]
                weight = graph.tensors[widened.get(place, place)]
                kind = kinds[weight.type]
                if kind in _BITS and model.buffers[weight.buffer].data is not None:
                    found.append(Weight("INT" in kind, _BITS[kind], float(np.prod(weight.shape))))
        return found


def notes_of(path: Path) -> dict[str, str]:
    """Metadata that :mod:`quantskew.deployment.converters` wrote; none of other files."""
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(path.read_bytes())
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == NOTES.encode():
            notes: dict[str, str] = json.loads(
                model.Buffers(entry.Buffer()).DataAsNumpy().tobytes()
            )
            return notes
    return {}


def _port(details: Mapping[str, Any]) -> Port:
    sizes = tuple(None if size < 0 else int(size) for size in details["shape_signature"])
    scale, zero = details["quantization"]
    return Port(details["name"], sizes, np.dtype(details["dtype"]), float(scale), int(zero))
