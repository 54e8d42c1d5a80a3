"""Files of networks of other people's making, and pictures that they tell apart."""

import io

import numpy as np
import onnx
import pandas as pd
import PIL.Image
from onnx import TensorProto, helper, numpy_helper

N = 240


def classifier(
    path, *, axes=("N", 1, 8, 8), outputs=2, integer=False, shift=0.0, answer=(), classes=()
):
    """Write a file that answers by brightness: class 1 from a mean of 0.5 + ``shift`` on.

    ``answer`` adds operators to the logits; ``outputs=1`` leaves the margin of class 1 alone.
    """
    gain = np.zeros((1, outputs), np.float32)
    gain[0, :2] = [-20, 20][-min(outputs, 2) :]
    bias = np.full(outputs, -100.0, np.float32)
    bias[:2] = -(0.5 + shift) * gain[0, :2]
    stored = [numpy_helper.from_array(bias, "bias")]
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1, 2, 3], keepdims=0)]
    nodes.append(helper.make_node("Unsqueeze", ["mean", "axis"], ["row"]))
    stored.append(numpy_helper.from_array(np.array([1]), "axis"))
    if integer:
        stored += [
            numpy_helper.from_array(gain.astype(np.int8), "codes"),
            numpy_helper.from_array(np.float32(1), "scale"),
            numpy_helper.from_array(np.int8(0), "zero"),
        ]
        nodes.append(helper.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["gain"]))
    else:
        stored.append(numpy_helper.from_array(gain, "gain"))
    nodes.append(helper.make_node("MatMul", ["row", "gain"], ["product"]))
    nodes.append(helper.make_node("Add", ["product", "bias"], ["logits"]))
    last = "logits"
    for operator in answer:
        nodes.append(helper.make_node(operator, [last], [operator]))
        last = operator
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [*axes])
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, [axes[0], outputs])
    graph = helper.make_graph(nodes, "classifier", [given], [result], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if classes:
        helper.set_model_props(model, {"classes": "\n".join(classes)})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def picture(value, shape=(8, 8)):
    pixels = np.full(shape, value, np.uint8)
    pixels[:, : shape[1] // 2] += 2  # a constant image is no image
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def pictures(n=N, shape=(8, 8)):
    """Dark pictures of class 0 and bright ones of class 1, in two groups each."""
    place = np.arange(n) % 4
    return pd.DataFrame(
        {
            "image": [picture(value, shape) for value in np.array([20, 60, 150, 230])[place]],
            "label": (place // 2).astype(str),
            "fur": np.array(["short", "long"])[place % 2],
        }
    )


def tflite(path, *, shape=(1, 8, 8, 1), free=False, kind="float", softmax=False):
    """Write a LiteRT file that answers by brightness: MEAN, FULLY_CONNECTED and maybe SOFTMAX.

    ``kind`` is the type of its input and output: ``float``; ``int8``, codes throughout; ``uint8``,
    pixels that the file makes floats of by itself; or ``half``, floats with a weight in float16.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as s

    model, graph = s.ModelT(), s.SubGraphT()
    model.version, model.buffers, model.operatorCodes = 3, [s.BufferT()], []
    graph.tensors, graph.operators = [], []

    def tensor(name, sizes, dtype, data=None, scale=None, zero=0):
        one = s.TensorT()
        one.name, one.shape, one.type = name, [*sizes], getattr(s.TensorType, dtype.upper())
        if data is not None:
            buffer = s.BufferT()
            buffer.data = np.frombuffer(data.tobytes(), np.uint8)
            model.buffers.append(buffer)
            one.buffer = len(model.buffers) - 1
        elif free:
            one.shapeSignature = [-1, *one.shape[1:]]
        if scale is not None:
            one.quantization = s.QuantizationParametersT()
            one.quantization.scale, one.quantization.zeroPoint = [scale], [zero]
        graph.tensors.append(one)
        return len(graph.tensors) - 1

    def operator(name, inputs, outputs, options=None):
        code, one = s.OperatorCodeT(), s.OperatorT()
        code.builtinCode = getattr(s.BuiltinOperator, name)
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        code.version = {"FULLY_CONNECTED": 4, "SOFTMAX": 2, "MEAN": 2}.get(name, 1)
        model.operatorCodes.append(code)
        one.opcodeIndex, one.inputs, one.outputs = len(model.operatorCodes) - 1, inputs, outputs
        if options is not None:
            one.builtinOptions = options
            one.builtinOptionsType = getattr(s.BuiltinOptions, type(options).__name__[:-1])
        graph.operators.append(one)

    integer = kind == "int8"
    inner = "int8" if integer else "float32"
    pixels = {"scale": 1 / 255, "zero": -128} if integer else {}
    scores = {"scale": 0.1, "zero": 0} if integer else {}
    n = shape[0]
    given = tensor(
        "image", shape, {"float": "float32", "half": "float32"}.get(kind, kind), **pixels
    )
    x = given
    if kind == "uint8":
        raw, x = given, tensor("raw", shape, "float32")
        operator("CAST", [raw], [x])
        divided, by = (
            tensor("scaled", shape, "float32"), tensor("by", [1], "float32", np.float32([1 / 255]))
        )  # fmt: skip
        operator("MUL", [x, by], [divided], s.MulOptionsT())
        x = divided
    axes = tensor("axes", [3], "int32", np.int32([1, 2, 3]))
    mean = tensor("mean", [n], inner, **pixels)
    operator("MEAN", [x, axes], [mean], s.ReducerOptionsT())
    gain = np.array([[-20], [20]])
    bias = np.array([10, -10])
    if integer:
        weight = tensor("gain", (2, 1), "int8", (gain * 6).astype(np.int8), scale=1 / 6)
        shift = tensor("bias", [2], "int32", (bias * 6 * 255).astype(np.int32), scale=1 / 6 / 255)
    else:
        weight = tensor("gain", (2, 1), "float32", gain.astype(np.float32))
        shift = tensor("bias", [2], "float32", bias.astype(np.float32))
    if kind == "half":
        stored = tensor("half", (2, 1), "float16", gain.astype(np.float16))
        weight = tensor("widened", (2, 1), "float32")
        operator("DEQUANTIZE", [stored], [weight], s.DequantizeOptionsT())
    logits = tensor("logits", (n, 2), inner, **scores)
    operator("FULLY_CONNECTED", [mean, weight, shift], [logits], s.FullyConnectedOptionsT())
    if softmax:
        beta = s.SoftmaxOptionsT()
        beta.beta = 1.0
        rounded = {"scale": 1 / 256, "zero": -128} if integer else {}
        probabilities = tensor("probabilities", (n, 2), inner, **rounded)
        operator("SOFTMAX", [logits], [probabilities], beta)
        logits = probabilities
    graph.inputs, graph.outputs = [given], [logits]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1 << 12)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def intermediate(source, path):
    """Make OpenVINO files of an ONNX file."""
    import openvino

    openvino.save_model(openvino.convert_model(source), path, compress_to_fp16=False)
    return path
