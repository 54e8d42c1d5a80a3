"""What an ONNX file holds: the files it consists of, its layers and the type of their weights."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import external_data_helper

LAYERS = ("Conv", "Gemm", "MatMul")
WEIGHT_INPUT = {
    **dict.fromkeys([*LAYERS, "ConvTranspose", "ConvInteger", "MatMulInteger", "MatMulNBits"], 1),
    **dict.fromkeys(["QLinearConv", "QLinearMatMul", "QGemm"], 3),
}
"""Which input of an operator is its weight; the runtime's own operators among them."""
_BITS: dict[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
}


def read(path: Path) -> onnx.ModelProto:
    """Read a file without the weights that lie beside it."""
    return onnx.load(path, load_external_data=False)


def parts(path: Path) -> list[Path]:
    """List a file and the files beside it that hold its weights."""
    tensors = read(path).graph.initializer
    beside = {
        external_data_helper.ExternalDataInfo(item).location
        for item in tensors
        if external_data_helper.uses_external_data(item)
    }
    return [path, *(path.parent / name for name in sorted(beside))]


def stored(model: onnx.ModelProto) -> list[tuple[bool, int, float]]:
    """List of each stored weight whether it is integers, the bits of a number, and how many."""
    found = []
    for node, weight in layers(model):
        bits = _BITS.get(weight.data_type)
        count, integer = math.prod(weight.dims), bits is not None
        if bits is None:
            bits = 8 * onnx.helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
        elif node.op_type == "MatMulNBits":  # several codes in a byte
            width = next(item.i for item in node.attribute if item.name == "bits")
            count, bits = count * bits // width, width
        found.append((integer, bits, count))
    return found


def layers(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """List the operators that have a stored weight, and that weight."""
    tensors = {item.name: item for item in model.graph.initializer}
    tensors |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    producers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        place = WEIGHT_INPUT.get(node.op_type)
        if place is not None and len(node.input) > place:
            weight = stored_tensor(node.input[place], tensors, producers)
            if weight is not None:
                found.append((node, weight))
    return found


def stored_tensor(
    name: str, tensors: Mapping[str, onnx.TensorProto], producers: Mapping[str, Any]
) -> onnx.TensorProto | None:
    """Return the tensor a weight is stored in; ``None`` for what is computed from the images."""
    while name not in tensors and name in producers:
        if producers[name].op_type not in ("DequantizeLinear", "Transpose", "Identity", "Reshape"):
            return None
        name = producers[name].input[0]
    return tensors.get(name)
