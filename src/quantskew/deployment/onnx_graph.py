"""What an ONNX file holds: the files it consists of, its layers and the type of their weights."""

import math
from pathlib import Path

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


CONVOLUTIONS = ("Conv", "ConvTranspose", "ConvInteger", "QLinearConv")
ON_INTEGERS = ("ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "QGemm")
"""Operators whose factors are integers."""
_FOLLOWED = (
    "DequantizeLinear", "QuantizeLinear", "Cast", "Transpose", "Identity", "Reshape",
)  # fmt: skip
"""What may stand between a stored weight and its operator."""


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


def tensors(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Stored tensors by name."""
    constants = {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    return {item.name: item for item in model.graph.initializer} | constants


def layers(model: onnx.ModelProto) -> list[tuple[onnx.NodeProto, onnx.TensorProto]]:
    """List the operators that have a stored weight, and that weight."""
    known = tensors(model)
    producers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        place = WEIGHT_INPUT.get(node.op_type)
        if place is not None and len(node.input) > place:
            name = node.input[place]
            while name in producers and producers[name].op_type in _FOLLOWED:
                name = producers[name].input[0]
            if name in known:  # else it is computed from the images
                found.append((node, known[name]))
    return found
