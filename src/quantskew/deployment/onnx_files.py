"""Export of networks to ONNX files in fp32 and int8, and ONNX files as networks.

int8 files have the QDQ format: standard operators with pairs of QuantizeLinear and DequantizeLinear
between them, which a runtime fuses into integer kernels where it has them. Weights are quantized
symmetrically with one scale per output channel, activations asymmetrically per tensor with ranges
measured on calibration images. Transformers are quantized dynamically instead: the outliers of
their activations differ between images, so the range is determined for each matrix product.

Files are written by the tracing exporter of torch, which takes a twentieth of the time of the one
based on ``torch.export`` (0.2 s for a small ResNet) and needs no other library.
"""

import contextlib
import copy
import logging
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
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from quantskew.errors import UserError
from quantskew.quantization.selfcheck import same_logits

OPSET = 17
INPUT, OUTPUT = "images", "logits"
LAYERS = ("Conv", "Gemm", "MatMul")
_INTEGER = {"ConvInteger", "MatMulInteger"}
_RANGES = {
    "minmax": quantization.CalibrationMethod.MinMax,
    "percentile": quantization.CalibrationMethod.Percentile,
    "entropy": quantization.CalibrationMethod.Entropy,
}
_BATCH = 32


class FileError(UserError, ValueError):
    """An ONNX file that cannot be run or is not an image classifier."""


class Facts(NamedTuple):
    """Content of a checked file."""

    opset: int
    operators: tuple[str, ...]
    layers: int  # convolutions and matrix products with stored weights
    integer_layers: int  # those whose weights are integers


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
    _annotate(path, notes)
    same_logits(network, OnnxNetwork(path), example, step=f"export to {path.name}")


def is_transformer(path: Path) -> bool:
    """Whether a file contains layer normalization, as transformers do."""
    return any(node.op_type == "LayerNormalization" for node in onnx.load(path).graph.node)


def quantize(
    source: Path,
    path: Path,
    images: Tensor | None,
    *,
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax",
    reduce_range: bool = True,
) -> None:
    """Quantize an fp32 file to int8.

    Parameters
    ----------
    source, path
        The fp32 file and the file to write, which has the same metadata.
    images
        Calibration images (N, C, H, W) for static activation ranges. With ``None`` the ranges are
        determined when the file runs, and only matrix products are quantized.
    ranges
        How the range of an activation is determined from its values.
    reduce_range
        Whether weights use only 7 of the 8 bits; see
        :class:`~quantskew.deployment.settings.Deploy`.
    """
    notes = {item.key: item.value for item in onnx.load(source).metadata_props}
    common = {
        "per_channel": True,
        "reduce_range": reduce_range,
        "weight_type": quantization.QuantType.QInt8,
    }
    with tempfile.TemporaryDirectory() as folder, _quiet():
        ready = Path(folder, "ready.onnx")
        quant_pre_process(str(source), str(ready), skip_symbolic_shape=True)
        if images is None:
            products = ["Gemm", "MatMul"]  # there is no fast dynamic convolution
            quantization.quantize_dynamic(
                str(ready), str(path), op_types_to_quantize=products, **common
            )
        else:
            quantization.quantize_static(
                str(ready),
                str(path),
                _Images(images, _BATCH if ranges == "minmax" else 1),
                quant_format=quantization.QuantFormat.QDQ,
                activation_type=quantization.QuantType.QUInt8,
                calibrate_method=_RANGES[ranges],
                **common,
            )
    _annotate(path, notes)


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


def stored_bytes(path: Path) -> int:
    """Size of a file, including the files with its external weights."""
    stored = onnx.load(path, load_external_data=False).graph.initializer
    beside = {
        external_data_helper.ExternalDataInfo(item).location
        for item in stored
        if external_data_helper.uses_external_data(item)
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in beside)))


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
    stored = {item.name: item.data_type for item in model.graph.initializer}
    producers = {name: node for node in model.graph.node for name in node.output}
    weights = [
        _stored_type(node.input[1], stored, producers)
        for node in model.graph.node
        if node.op_type in (*LAYERS, *_INTEGER)
    ]
    return Facts(
        opset=versions[""],
        operators=tuple(sorted({node.op_type for node in model.graph.node})),
        layers=sum(kind is not None for kind in weights),
        integer_layers=sum(
            kind in (onnx.TensorProto.INT8, onnx.TensorProto.UINT8) for kind in weights
        ),
    )


def _stored_type(name: str, stored: Mapping[str, int], producers: Mapping[str, Any]) -> int | None:
    """Type in which a weight is stored; ``None`` for a tensor that depends on the images."""
    while name not in stored and name in producers:
        if producers[name].op_type not in ("DequantizeLinear", "Transpose", "Identity"):
            return None
        name = producers[name].input[0]
    return stored.get(name)


class OnnxNetwork(nn.Module):
    """An ONNX file as a module, which ONNX Runtime executes.

    Parameters
    ----------
    path
        An image classifier with one float input (N, C, H, W) and one output (N, classes).

    Attributes
    ----------
    shape
        C, H, W of the images; ``None`` for a dimension that is not fixed.
    classes
        Names of the classes, from the metadata of a file written by quantskew; else empty.

    Raises
    ------
    FileError
        When ONNX Runtime cannot load the file, or it has other inputs or outputs.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.session = session(self.path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = [[*item.shape] for item in (*inputs, *outputs)]
        if [len(shape) for shape in shapes] != [4, 2] or inputs[0].type != "tensor(float)":
            raise FileError(
                f"{path} has inputs and outputs {', '.join(map(str, shapes))}; a classifier takes "
                "one float tensor (N, C, H, W) and returns one (N, classes)"
            )
        self.shape = tuple(size if isinstance(size, int) else None for size in shapes[0][1:])
        classes = self.session.get_modelmeta().custom_metadata_map.get("classes", "")
        self.classes = tuple(classes.split("\n")) if classes else ()
        # a parameter, by which callers see that the module runs on the CPU
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        inputs = {self.session.get_inputs()[0].name: images.float().contiguous().numpy()}
        return torch.from_numpy(self.session.run(None, inputs)[0])

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
