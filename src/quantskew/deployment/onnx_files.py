"""Export of networks to ONNX files in fp32 and int8, and ONNX files as networks.

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
import math
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import external_data_helper
from onnxruntime import quantization
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from quantskew import models
from quantskew.errors import UserError
from quantskew.quantization.selfcheck import same_logits

OPSET = 17
INPUT, OUTPUT = "images", "logits"
LAYERS = ("Conv", "Gemm", "MatMul")
PRODUCTS = ("Gemm", "MatMul")
MINIMUM_INTEGER = 0.5
"""Share of the bytes of the weights that must be integers in a file that is called int8."""
_WEIGHT = {
    **dict.fromkeys([*LAYERS, "ConvTranspose", "ConvInteger", "MatMulInteger", "MatMulNBits"], 1),
    **dict.fromkeys(["QLinearConv", "QLinearMatMul", "QGemm"], 3),
}
"""Which input of an operator is its weight; the runtime's own operators among them."""
# norms stay in floating point: the quantizer fails on a scale of several axes
_STATIC = sorted({*QDQRegistry, *QLinearOpsRegistry} - {"LayerNormalization"})
_BITS: dict[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.INT8: 8,
    onnx.TensorProto.UINT8: 8,
    onnx.TensorProto.INT16: 16,
    onnx.TensorProto.UINT16: 16,
}
_AXES = {"NCHW": (1, 2, 3), "NHWC": (3, 1, 2)}
_PIXELS = {"pixels": "[0, 1]"}
_RANGES = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
}
_BATCH = 32


class FileError(UserError, ValueError):
    """An ONNX file that cannot be run or is not an image classifier."""


Products = Literal["static", "dynamic"]
"""How the activations that enter matrix products are quantized."""


class Facts(NamedTuple):
    """Content of a checked file."""

    opset: int
    operators: tuple[str, ...]
    layers: int  # convolutions and matrix products with stored weights
    integer_layers: int  # those whose weights are integers
    integer_bytes: float  # share of the bytes of their weights that are integers


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
    _annotate(path, {**notes, **_PIXELS})
    same_logits(network, OnnxNetwork(path), example, step=f"export to {path.name}")


def quantize(
    source: Path,
    path: Path,
    images: Tensor,
    *,
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax",
    reduce_range: bool = True,
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
    ranges
        How the range of an activation is determined from its values.
    reduce_range
        Whether weights use only 7 of the 8 bits; see
        :class:`~quantskew.deployment.settings.Deploy`.
    """
    model = onnx.load(source)
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
            _Images(images, _BATCH if ranges == "minmax" else 1),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            calibrate_method=_RANGES[ranges],
            op_types_to_quantize=operators,
            **common,
        )

    layers = [op for op, _, _ in _weights(model)]
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
        products = _closest(made, OnnxNetwork(source), images) if several else "static"
        path.write_bytes(made[products].read_bytes())
    _annotate(path, notes)
    facts = inventory(onnx.load(path))
    if facts["integer_bytes"] < MINIMUM_INTEGER:
        raise FileError(
            f"{path.name} is no int8 file: {100 * facts['integer_bytes']:.1f} % of the bytes of "
            f"its weights are integers ({facts['integer_layers']} of {facts['layers']} layers), "
            f"and {100 * MINIMUM_INTEGER:g} % are needed"
        )
    return products


def _closest(made: Mapping[Products, Path], network: "OnnxNetwork", images: Tensor) -> Products:
    """Choose the file that agrees best with the fp32 network."""
    expected = models.logits(network, images)

    def agreement(name: Products) -> tuple[float, float]:
        logits = models.logits(OnnxNetwork(made[name]), images)
        same = float((logits.argmax(1) == expected.argmax(1)).float().mean())
        return same, -float((logits - expected).square().mean())

    return max(made, key=agreement)


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Batches of images; histograms of ranges other than ``minmax`` need batches of equal size."""

    def __init__(self, images: Tensor, size: int) -> None:
        self.batches: Iterator[Tensor] = iter(images.contiguous().split(size))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


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


def read(path: Path) -> onnx.ModelProto:
    """Read a file without the weights that lie beside it."""
    return onnx.load(path, load_external_data=False)


def parts(path: Path) -> list[Path]:
    """List a file and the files beside it that hold its weights."""
    stored = read(path).graph.initializer
    beside = {
        external_data_helper.ExternalDataInfo(item).location
        for item in stored
        if external_data_helper.uses_external_data(item)
    }
    return [path, *(path.parent / name for name in sorted(beside))]


def stored_bytes(path: Path) -> int:
    """Size of a file, with the files beside it that hold its weights."""
    return sum(file.stat().st_size for file in parts(path))


def check(path: Path) -> Facts:
    """Check that any ONNX runtime can read a file: its format, opset and operators.

    Raises
    ------
    FileError
        When the file is not valid ONNX, or needs an opset above :data:`OPSET` or a nonstandard
        operator.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except Exception as error:  # protobuf and the checker raise many types
        raise FileError(f"{path} is not a valid ONNX file: {_first_line(error)}") from None
    used = {node.domain for node in model.graph.node}
    versions = {item.domain: item.version for item in model.opset_import if item.domain in used}
    foreign = sorted(f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain)
    if foreign or versions.get("", 0) > OPSET:
        needed = foreign[0] if foreign else f"opset {versions['']}"
        raise FileError(
            f"{path} needs {needed}; deployed files may only have standard operators of opset "
            f"{OPSET} or lower"
        )
    return Facts(
        opset=versions[""],
        operators=tuple(sorted({node.op_type for node in model.graph.node})),
        **inventory(model),
    )


def inventory(model: onnx.ModelProto) -> dict[str, Any]:
    """Count the layers of a model, those with integer weights, and the share of their bytes."""
    weights = _weights(model)
    sizes = [size for _, _, size in weights]
    integer = [size for _, kind, size in weights if kind in _BITS]
    return {
        "layers": len(weights),
        "integer_layers": len(integer),
        "integer_bytes": sum(integer) / sum(sizes) if weights else 0.0,
    }


def _weights(model: onnx.ModelProto) -> list[tuple[str, int, float]]:
    """Operator, type and bytes of the stored weight of each layer."""
    stored = {item.name: item for item in model.graph.initializer}
    stored |= {
        node.output[0]: attribute.t
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value"
    }
    producers = {name: node for node in model.graph.node for name in node.output}
    layers = []
    for node in model.graph.node:
        place = _WEIGHT.get(node.op_type)
        weight = None
        if place is not None and len(node.input) > place:
            weight = _stored(node.input[place], stored, producers)
        if weight is not None:
            kind = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
            bits = _BITS.get(weight.data_type, 8 * kind.itemsize)
            layers.append((node.op_type, weight.data_type, math.prod(weight.dims) * bits / 8))
    return layers


def _stored(
    name: str, stored: Mapping[str, onnx.TensorProto], producers: Mapping[str, Any]
) -> onnx.TensorProto | None:
    """Return the tensor a weight is stored in; ``None`` for what is computed from the images."""
    while name not in stored and name in producers:
        if producers[name].op_type not in ("DequantizeLinear", "Transpose", "Identity", "Reshape"):
            return None
        name = producers[name].input[0]
    return stored.get(name)


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, which ONNX Runtime executes.

    Parameters
    ----------
    path
        An image classifier with one float input of four axes and one output (N, classes).
    output
        Name of the output with the scores, if there are several.
    layout
        Order of the axes of the input.

    Attributes
    ----------
    shape
        C, H, W of the images; ``None`` for a dimension that is not fixed.
    classes
        Names of the classes, from the metadata of a file written by quantskew; else empty.
    takes_pixels
        Whether the metadata say that the input is pixel values in [0, 1], as quantskew writes them.

    Raises
    ------
    FileError
        When ONNX Runtime cannot load the file, or it has other inputs or outputs.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        output: str | None = None,
        layout: Literal["NCHW", "NHWC"] = "NCHW",
    ) -> None:
        super().__init__()
        self.path, self.layout = Path(path), layout
        self.session = session(self.path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        names = [item.name for item in outputs]
        if (len(outputs) > 1) if output is None else (output not in names):
            raise FileError(
                f"{path} has {len(outputs)} outputs, {', '.join(names)}; name the one that answers "
                f"as output: in the policy{'' if output is None else f' (got {output!r})'}"
            )
        self.output = output or names[0]
        answer = outputs[names.index(self.output)]
        shapes = [[*item.shape] for item in (*inputs, answer)]
        ranks = [len(shape) for shape in shapes]  # a single score may have no axis of its own
        if ranks not in ([4, 2], [4, 1]) or inputs[0].type != "tensor(float)":
            raise FileError(
                f"{path} has inputs and outputs {', '.join(map(str, shapes))}; a classifier takes "
                "one float tensor (N, C, H, W) and returns one (N, classes)"
            )
        sizes = [size if isinstance(size, int) else None for size in shapes[0]]
        self.batch = sizes[0]
        self.shape = tuple(sizes[axis] for axis in _AXES[layout])
        notes = self.session.get_modelmeta().custom_metadata_map
        noted = notes.get("classes", "")
        self.classes = tuple(noted.split("\n")) if noted else ()
        self.takes_pixels = _PIXELS.items() <= notes.items()
        # a parameter, by which callers see that the module runs on the CPU
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        axes = (0, 2, 3, 1) if self.layout == "NHWC" else (0, 1, 2, 3)
        pixels = np.ascontiguousarray(images.float().numpy().transpose(axes))
        n, size = len(pixels), self.batch or len(pixels)
        answers = []
        for start in range(0, n, size):
            part = pixels[start : start + size]
            # a batch of fixed size is filled with copies of its last image
            part = np.pad(part, [(0, size - len(part)), *[(0, 0)] * 3], mode="edge")
            answers += self.session.run([self.output], {self.session.get_inputs()[0].name: part})
        return torch.from_numpy(np.concatenate(answers)[:n])

    def __deepcopy__(self, memo: object) -> "OnnxNetwork":
        return self  # a session has no state and cannot be copied


def session(path: Path, *, profile: str | None = None) -> onnxruntime.InferenceSession:
    """Load a file with as many threads as torch uses; ``profile`` is the prefix of a trace file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4
    if profile:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    if not path.is_file():
        raise FileError(f"{path}: no such file")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime has an exception class for each stage of loading
        raise FileError(
            f"{path} is not a file that ONNX Runtime can run: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
