"""Export of networks to ONNX files in fp32, int8 and 4 bits, and ONNX files as networks.

int8 files have the QDQ format: standard operators with pairs of QuantizeLinear and DequantizeLinear
between them, which a runtime fuses into integer kernels where it has them. Weights are quantized
symmetrically with one scale per output channel, activations asymmetrically per tensor with ranges
measured on calibration images. The inputs of the matrix products of a transformer can have outliers
that differ between images; ranges that are determined when the file runs (dynamic quantization) may
then be better. The calibration images decide which of the two is used.

Files are written by the tracing exporter of torch, which takes a twentieth of the time of the one
based on ``torch.export`` (0.2 s for a small ResNet) and needs no other library.
"""

import contextlib
import copy
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import torch
from onnxruntime import quantization
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from quantskew.deployment import onnx_graph
from quantskew.deployment.runtimes import (
    BLOCK,
    PIXELS,
    FileError,
    Layout,
    Network,
    Weight,
    check_width,
    closest,
    inventory,
    open_file,
)
from quantskew.deployment.runtimes.network import first_line
from quantskew.deployment.runtimes.onnx_runtime import session
from quantskew.deployment.settings import Ranges
from quantskew.errors import extras
from quantskew.quantization.selfcheck import same_logits

OPSET = 17
INPUT, OUTPUT = "images", "logits"
PRODUCTS = ("Gemm", "MatMul")
PACKED = "com.microsoft.MatMulNBits"
"""A product with weights of 4 bits, which ONNX Runtime alone has."""
# norms stay in floating point: the quantizer fails on a scale of several axes
_STATIC = sorted({*QDQRegistry, *QLinearOpsRegistry} - {"LayerNormalization"})
_RANGES = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
}
_BATCH = 8


Products = Literal["static", "dynamic"]
"""How the activations that enter matrix products are quantized."""


class Facts(NamedTuple):
    """Content of a checked file."""

    opset: int
    operators: tuple[str, ...]
    layers: int  # convolutions and matrix products with stored weights
    integer_layers: int  # those whose weights are integers
    integer_bytes: float  # share of the bytes of their weights that are integers
    integer_operations: float  # share of their multiplications that are of integers


def export(network: nn.Module, example: Tensor, path: Path, notes: Mapping[str, str]) -> None:
    """Write a network in evaluation mode, with any batch size; batch normalization is folded.

    Parameters
    ----------
    network
        On the CPU, in float32; it is not changed.
    example
        An input batch (N, C, H, W).
    path
        The file to write.
    notes
        Metadata of the file.

    Raises
    ------
    SelfCheckError
        When the file and the network have different outputs.
    """
    network = copy.deepcopy(network).eval()
    with warnings.catch_warnings():
        # warnings that this exporter is the older one and that it treats shapes as constants
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            (example.contiguous(),),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "N"}, OUTPUT: {0: "N"}},
        )
    _annotate(path, {**notes, **PIXELS})
    same_logits(network, OnnxNetwork(path), example, step=f"export to {path.name}")


def quantize(
    source: Path,
    path: Path,
    images: Tensor,
    *,
    ranges: Ranges = "minmax",
    reduce_range: bool = True,
    output: str | None = None,
    layout: Layout | None = None,
) -> Products:
    """Quantize an fp32 file to int8.

    The ranges of convolutions are static. If several matrix products have stored weights, a file
    with static and one with dynamic ranges for these products are made. The one that agrees with
    the fp32 file on more calibration images is kept; if both agree on as many, the one with the
    smaller squared difference of the logits.

    Parameters
    ----------
    source, path
        The fp32 file and the file to write, which has the same metadata.
    images
        Calibration images (N, C, H, W).
    ranges, reduce_range
        As in :class:`~quantskew.deployment.settings.Deploy`.
    output, layout
        Of the source, where it does not tell by itself.
    """
    opened = partial(open_file, threads=torch.get_num_threads(), output=output, layout=layout)
    model, network = onnx.load(source), opened(source)
    notes = {item.key: item.value for item in model.metadata_props}
    common = {
        "per_channel": True,
        "reduce_range": reduce_range,
        "weight_type": quantization.QuantType.QInt8,
    }

    def static(ready: Path, target: Path, operators: list[str]) -> None:
        quantization.quantize_static(
            str(ready),
            str(target),
            _Images(network, images, _BATCH if ranges == "minmax" else 1),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=_RANGES[ranges],
            op_types_to_quantize=operators,
            **common,
        )

    layers = [node.op_type for node, _ in onnx_graph.layers(model)]
    several = sum(op in PRODUCTS for op in layers) > 1
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready = Path(folder, "ready.onnx")
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        made: dict[Products, Path] = {"static": Path(folder, "static.onnx")}
        static(ready, made["static"], _STATIC)
        if several:
            made["dynamic"] = Path(folder, "dynamic.onnx")
            half = ready
            if "Conv" in layers:
                half = Path(folder, "half.onnx")
                static(ready, half, ["Conv"])
            quantization.quantize_dynamic(
                str(half), str(made["dynamic"]), op_types_to_quantize=[*PRODUCTS], **common
            )
        products: Products = "static"
        if several:
            files = {name: opened(file) for name, file in made.items()}
            products, _ = closest(network, files, images.numpy())
        path.write_bytes(made[products].read_bytes())
    _annotate(path, notes)
    _check_width(path, 8)
    return products


def pack(source: Path, path: Path) -> None:
    """Quantize the weights of matrix products to 4 bits, and leave all else in floating point.

    These become ``MatMulNBits``, an operator of ONNX Runtime: :data:`BLOCK` weights of a row share
    a scale and a zero point. The file has the metadata of the source.

    Raises
    ------
    FileError
        When most of the weights are not of such products, as those of convolutions.
    MissingExtraError
        When a library that ONNX Runtime packs with is not installed.
    """
    with extras():
        from onnxruntime.quantization import matmul_nbits_quantizer

    matmul_nbits_quantizer.logger.setLevel("ERROR")
    model = ONNXModel(onnx.load(source))
    model.replace_gemm_with_matmul()
    packing = matmul_nbits_quantizer.MatMulNBitsQuantizer(
        model.model, bits=4, block_size=BLOCK, is_symmetric=False
    )
    packing.process()
    packing.model.topological_sort()
    path.write_bytes(packing.model.model.SerializeToString(deterministic=True))
    _check_width(path, 4)


def _check_width(path: Path, bits: int) -> None:
    weights = [Weight(*one) for one in onnx_graph.stored(onnx.load(path))]
    check_width(path.name, "ONNX Runtime", weights, bits)


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of images; histograms of ranges other than ``minmax`` need batches of equal size."""

    def __init__(self, network: Network, images: Tensor, size: int) -> None:
        self.batches = network.batches(images.numpy(), size)
        self.input = network.input.name

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {self.input: batch}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the advice of the quantizer, which :func:`quantize` follows already."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _annotate(path: Path, notes: Mapping[str, str]) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, dict(sorted(notes.items())))
    path.write_bytes(model.SerializeToString(deterministic=True))


def check(path: Path) -> Facts:
    """Check that any ONNX runtime can read a file: its format, opset and operators.

    Raises
    ------
    FileError
        When the file is not valid ONNX, or needs an opset above :data:`OPSET` or a nonstandard
        operator other than :data:`PACKED`.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except Exception as error:  # protobuf and the checker raise many types
        raise FileError(f"{path} is not a valid ONNX file: {first_line(error)}") from None
    used = {node.domain for node in model.graph.node}
    versions = {item.domain: item.version for item in model.opset_import if item.domain in used}
    foreign = sorted({f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain} - {PACKED})
    if foreign or versions.get("", 0) > OPSET:
        needed = foreign[0] if foreign else f"opset {versions['']}"
        raise FileError(
            f"{path} needs {needed}; deployed files may only have standard operators of opset "
            f"{OPSET} or lower, and {PACKED}"
        )
    return Facts(
        opset=versions[""],
        operators=tuple(sorted({node.op_type for node in model.graph.node})),
        **inventory(Weight(*one) for one in onnx_graph.stored(model)),
        integer_operations=integer_operations(model),
    )


def integer_operations(model: onnx.ModelProto) -> float:
    """Share of the multiplications with stored weights of which both factors are integers.

    A runtime makes one operation on integers of an operator and the ``DequantizeLinear`` before it.
    How often a weight is used is seen from what its operator gives for one image; in a transposed
    convolution, from what it takes.
    """
    found = onnx_graph.layers(model)
    makers = {name: node.op_type for node in model.graph.node for name in node.output}
    used = [
        (node.input if node.op_type == "ConvTranspose" else node.output)[0] for node, _ in found
    ]
    names = [name for name in dict.fromkeys(used) if name != INPUT]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    del probe.graph.output[:]
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    axes = model.graph.input[0].type.tensor_type.shape.dim[1:]
    image = np.zeros((1, *(axis.dim_value for axis in axes)), np.float32)
    answers = session(probe.SerializeToString()).run(names, {INPUT: image}) if names else []
    sizes = {name: answer.shape for name, answer in zip(names, answers, strict=True)}
    sizes[INPUT] = image.shape
    times, integer = [], []
    for (node, _), weight, name in zip(found, onnx_graph.stored(model), used, strict=True):
        channels = sizes[name][1 if node.op_type in onnx_graph.CONVOLUTIONS else -1]
        times.append(weight[2] * np.prod(sizes[name]) / channels)
        behind = makers.get(node.input[0]) == "DequantizeLinear"
        integer.append(weight[0] and (behind or node.op_type in onnx_graph.ON_INTEGERS))
    return float(np.dot(times, integer) / (sum(times) or 1))


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, which ONNX Runtime executes with as many threads as torch uses.

    Attributes
    ----------
    file
        The file; see :class:`~quantskew.deployment.runtimes.Network`.

    Raises
    ------
    FileError
        When ONNX Runtime cannot load the file, or it is no image classifier.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.file = open_file(path, threads=torch.get_num_threads())
        # a parameter, by which callers see that the module runs on the CPU
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        return torch.from_numpy(self.file(images.float().numpy()))

    def __deepcopy__(self, memo: object) -> "OnnxNetwork":
        return self  # a session has no state and cannot be copied
