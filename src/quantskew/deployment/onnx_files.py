"""A network as an ONNX file, in fp32 and int8, and an ONNX file as a network.

int8 files are in the QDQ form: standard operators with pairs of QuantizeLinear and DequantizeLinear
between them, which a runtime fuses into integer kernels where it has some. Weights are symmetric
with a scale for each output channel, activations asymmetric per tensor with ranges measured on
calibration images. Transformers are quantized dynamically instead: their activations have outliers
that differ from image to image, and the range is taken when the matrix product is computed.

The file is written by the tracing exporter of torch, which takes a twentieth of the time of the one
based on ``torch.export`` (0.2 s for a small ResNet) and needs no further library.
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
    """An ONNX file that cannot be run, or is not a classifier of images."""


class Facts(NamedTuple):
    """What is in a checked file."""

    opset: int
    operators: tuple[str, ...]
    layers: int  # convolutions and matrix products with stored weights
    integer_layers: int  # those whose weights are integers


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

    Raises
    ------
    SelfCheckError
        When the file answers otherwise than the network.
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
    _annotate(path, notes)
    same_logits(network, OnnxNetwork(path), example, step=f"export to {path.name}")


def is_transformer(path: Path) -> bool:
    """Whether a file normalizes layers, as transformers do, and not channels."""
    return any(node.op_type == "LayerNormalization" for node in onnx.load(path).graph.node)


def quantize(
    source: Path,
    path: Path,
    images: Tensor | None,
    *,
    ranges: Literal["minmax", "percentile", "entropy"] = "minmax",
    reduce_range: bool = True,
) -> None:
    """Write an fp32 file in int8.

    Parameters
    ----------
    source, path
        The fp32 file, and the one to write. Metadata are taken along.
    images
        Calibration images (N, C, H, W) for static ranges of the activations; ``None`` leaves
        them to be taken when the file runs, which quantizes matrix products alone.
    ranges
        How the range of an activation follows from its values.
    reduce_range
        Whether weights take 7 of the 8 bits. On an x86 CPU without VNNI two products of 8 bits
        overflow the 16-bit sum that holds them, and the answers then depend on the CPU.
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
            products = ["Gemm", "MatMul"]  # a convolution in integers has no fast kernel like that
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


def stored_bytes(path: Path) -> int:
    """Size of a file, with the files beside it that hold its weights."""
    stored = onnx.load(path, load_external_data=False).graph.initializer
    beside = {
        external_data_helper.ExternalDataInfo(item).location
        for item in stored
        if external_data_helper.uses_external_data(item)
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / name for name in beside)))


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
    stored = {item.name: item.data_type for item in model.graph.initializer}
    made_by = {name: node for node in model.graph.node for name in node.output}
    weights = [
        _stored_type(node.input[1], stored, made_by)
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


def _stored_type(name: str, stored: Mapping[str, int], made_by: Mapping[str, Any]) -> int | None:
    """Type in which a weight is stored; ``None`` for what is computed from the images."""
    while name not in stored and name in made_by:
        if made_by[name].op_type not in ("DequantizeLinear", "Transpose", "Identity"):
            return None
        name = made_by[name].input[0]
    return stored.get(name)


class OnnxNetwork(nn.Module):
    """An ONNX file as a network: whatever takes a module runs the file itself.

    Parameters
    ----------
    path
        A classifier of images: one float input (N, C, H, W), one output (N, classes).

    Attributes
    ----------
    shape
        C, H, W of the images; ``None`` where the file leaves it open.
    classes
        Names of the classes from the metadata of a file that quantskew wrote, else none.

    Raises
    ------
    FileError
        When ONNX Runtime cannot load the file, or its input or output is another.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = Path(path)
        self.session = session(self.path)
        inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
        shapes = [[*item.shape] for item in (*inputs, *outputs)]
        if [len(shape) for shape in shapes] != [4, 2] or inputs[0].type != "tensor(float)":
            raise FileError(
                f"{path} takes and gives {', '.join(map(str, shapes))}; a classifier takes one "
                "float tensor (N, C, H, W) and gives one (N, classes)"
            )
        self.shape = tuple(size if isinstance(size, int) else None for size in shapes[0][1:])
        noted = self.session.get_modelmeta().custom_metadata_map.get("classes", "")
        self.classes = tuple(noted.split("\n")) if noted else ()
        # says to whoever asks that it runs on the CPU
        self.anchor = nn.Parameter(torch.empty(0), requires_grad=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, C, H, W)."""
        given = {self.session.get_inputs()[0].name: images.float().contiguous().numpy()}
        return torch.from_numpy(self.session.run(None, given)[0])

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
