"""A network as an ONNX file, in fp32 and int8, and an ONNX file as a network.

int8 files are in the QDQ form: standard operators with pairs of QuantizeLinear and DequantizeLinear
between them, which a runtime fuses into integer kernels where it has some. Weights are symmetric
with a scale for each output channel, activations asymmetric per tensor with ranges measured on
calibration images. Activations in the matrix products of a transformer can have outliers that
differ from image to image; a range that is determined when the product is computed (dynamic
quantization) then serves better. Which of the two is better is measured on the calibration images.

The file is written by the tracing exporter of torch, which takes a twentieth of the time of the one
based on ``torch.export`` (0.2 s for a small ResNet) and needs no further library.
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
    """An ONNX file that cannot be run, or is not a classifier of images."""


Products = Literal["static", "dynamic"]
"""How the activations that enter matrix products are quantized."""


class Facts(NamedTuple):
    """What is in a checked file."""

    opset: int
    operators: tuple[str, ...]
    layers: int  # convolutions and matrix products with stored weights
    integer_layers: int  # those whose weights are integers
    integer_bytes: float  # share of the bytes of their weights that are integers


def export(network: nn.Module, example: Tensor, path: Path, notes: Mapping[str, str]) -> None:
    """Write a network in evaluation mode, with a free batch size; batch norms are folded.

    Parameters
    ----------
    network
        On the CPU, in float32; not changed.
    example
        An input batch (N, C, H, W).
    path
        The file.
    notes
        Kept in the metadata of the file.
    """
    network = copy.deepcopy(network).eval()
    with warnings.catch_warnings():
        # that it is the older exporter, and shapes it takes as constants, as they are
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


def quantize(
    source: Path,
    path: Path,
    images: Tensor,
    *,
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax",
    reduce_range: bool = True,
) -> Products:
    """Write an fp32 file in int8.

    Convolutions have static ranges. In a file with several matrix products by stored weights, these
    are tried with static and with dynamic ranges, and the file that gives the answer of fp32 for
    more of the calibration images is kept (if as many, the one whose logits are closer).

    Parameters
    ----------
    source, path
        The fp32 file, and the one to write. Metadata are taken along.
    images
        Calibration images (N, C, H, W).
    ranges
        How the range of an activation follows from its values.
    reduce_range
        Whether weights take 7 of the 8 bits. On an x86 CPU without VNNI two products of 8 bits
        overflow the 16-bit sum that holds them, and the answers then depend on the CPU.
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
    """Batches of images; the histograms of the other ranges take none but of one size."""

    def __init__(self, images: Tensor, size: int) -> None:
        self.batches: Iterator[Tensor] = iter(images.contiguous().split(size))

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {INPUT: batch.numpy()}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice, which its caller has followed, out of the user's log."""
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


def parts(path: Path) -> list[Path]:
    """List a file and the files beside it that hold its weights."""
    stored = onnx.load(path, load_external_data=False).graph.initializer
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
    """Check that any runtime of ONNX can read a file: its form, its opset, its operators.

    Raises
    ------
    FileError
        When the file is not valid ONNX, wants an opset above :data:`OPSET`, or an operator that is
        not of the standard.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
    except FileNotFoundError:
        raise FileError(f"{path}: no such file") from None
    except Exception as error:  # protobuf and the checker raise many kinds
        raise FileError(f"{path} is not a valid ONNX file: {_first_line(error)}") from None
    used = {node.domain for node in model.graph.node}
    versions = {item.domain: item.version for item in model.opset_import if item.domain in used}
    foreign = sorted(f"{n.domain}.{n.op_type}" for n in model.graph.node if n.domain)
    if foreign or versions.get("", 0) > OPSET:
        wanted = foreign[0] if foreign else f"opset {versions['']}"
        raise FileError(
            f"{path} wants {wanted}; a file that ships has standard operators of opset {OPSET} "
            "at most"
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
    made_by = {name: node for node in model.graph.node for name in node.output}
    layers = []
    for node in model.graph.node:
        place = _WEIGHT.get(node.op_type)
        weight = None
        if place is not None and len(node.input) > place:
            weight = _stored(node.input[place], stored, made_by)
        if weight is not None:
            kind = onnx.helper.tensor_dtype_to_np_dtype(weight.data_type)
            bits = _BITS.get(weight.data_type, 8 * kind.itemsize)
            layers.append((node.op_type, weight.data_type, math.prod(weight.dims) * bits / 8))
    return layers


def _stored(
    name: str, stored: Mapping[str, onnx.TensorProto], made_by: Mapping[str, Any]
) -> onnx.TensorProto | None:
    """Return the tensor a weight is stored in; ``None`` for what is computed from the images."""
    while name not in stored and name in made_by:
        if made_by[name].op_type not in ("DequantizeLinear", "Transpose", "Identity", "Reshape"):
            return None
        name = made_by[name].input[0]
    return stored.get(name)


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: whatever takes a module runs the file itself.

    Parameters
    ----------
    path
        A classifier of images: one float input of four axes, and an output (N, classes).
    output
        Name of the output that answers, of a file with several.
    layout
        Order of the axes of the input.

    Attributes
    ----------
    shape
        C, H, W of the images; ``None`` where the file leaves it open.
    classes
        Names of the classes from the metadata of a file that quantskew wrote, else none.
    takes_pixels
        Whether the file says that it takes pixel values in [0, 1], as those of quantskew do.

    Raises
    ------
    FileError
        When ONNX Runtime cannot load the file, or its input or output is another.
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
        if [len(shape) for shape in shapes] != [4, 2] or inputs[0].type != "tensor(float)":
            raise FileError(
                f"{path} takes and gives {', '.join(map(str, shapes))}; a classifier takes one "
                "float tensor (N, C, H, W) and gives one (N, classes)"
            )
        sizes = [size if isinstance(size, int) else None for size in shapes[0]]
        self.batch = sizes[0]
        self.shape = tuple(sizes[axis] for axis in _AXES[layout])
        notes = self.session.get_modelmeta().custom_metadata_map
        noted = notes.get("classes", "")
        self.classes = tuple(noted.split("\n")) if noted else ()
        self.takes_pixels = _PIXELS.items() <= notes.items()
        # says to whoever asks that it runs on the CPU
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        axes = (0, 2, 3, 1) if self.layout == "NHWC" else (0, 1, 2, 3)
        given = np.ascontiguousarray(images.float().numpy().transpose(axes))
        n, size = len(given), self.batch or len(given)
        answers = []
        for start in range(0, n, size):
            part = given[start : start + size]
            # a batch of fixed size is filled with copies of its last image
            part = np.pad(part, [(0, size - len(part)), *[(0, 0)] * 3], mode="edge")
            answers += self.session.run([self.output], {self.session.get_inputs()[0].name: part})
        return torch.from_numpy(np.concatenate(answers)[:n])

    def __deepcopy__(self, memo: object) -> "OnnxNetwork":
        return self  # a session keeps nothing between runs, and cannot be copied


def session(path: Path, *, profile: str | None = None) -> onnxruntime.InferenceSession:
    """Load a file for as many threads as torch uses; ``profile`` begins the name of a trace."""
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
    except Exception as error:  # the runtime has a class of error for each stage of loading
        raise FileError(
            f"{path} is not a file that ONNX Runtime can run: {_first_line(error)}"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
