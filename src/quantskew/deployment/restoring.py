"""Which quantized layers of an ONNX file hurt which group, whoever made the file.

Of a file in the QDQ format, one layer at a time gets back what it has in the fp32 file: its weights
and bias, and its input without rounding. What the answers of a group gain by that is what the
layer's quantization costs the group; the rest of the file stays as it is. The sum over layers is
not the whole, since errors of layers add up, cancel or are cut off by what follows.
"""

import copy
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import pandas as pd
from onnx import numpy_helper
from tqdm import tqdm

from quantskew.data.groups import Grouping
from quantskew.deployment import onnx_graph
from quantskew.deployment.answers import Answered, answered, check_finite, class_names, divided
from quantskew.deployment.feeding import Feed, opened, read_labelled
from quantskew.deployment.runtimes import FileError, Network, open_file
from quantskew.deployment.runtimes.onnx_runtime import OnnxRuntime

if TYPE_CHECKING:
    from quantskew.analysis.gate import Policy

EVERY = "(all layers)"
_LAYERS = (*onnx_graph.LAYERS, "ConvTranspose")
_INTEGER = {*onnx_graph.WEIGHT_INPUT} - {*_LAYERS}  # operators on integers, not pairs of QDQ
_OTHER = 1.1  # weights in 2 bits are 0.9 off (min-max of a normal distribution), others √2
_NEAR = 0.5
_SUFFIXES = ("_quantized", "_DequantizeLinear_Output", "_DequantizeLinear", "_q", "_dq")


class Layer(NamedTuple):
    """A quantized layer, and what it was before.

    Attributes
    ----------
    place
        Of its operator in the graph.
    weight
        Its fp32 weight.
    bias
        Its fp32 bias; ``None`` if it has none, or none that is known.
    clip
        Ends of its input. A quantizer drops a ReLU before a rounding whose codes end there, so that
        an input without rounding needs it again. ``None`` where the input is not in the fp32 file:
        it then keeps the range of the codes.
    weight_error
        Norm of what rounding changed in its weight, as a share of the norm of the weight.
    """

    name: str
    operator: str
    place: int
    weight: np.ndarray
    bias: np.ndarray | None
    clip: tuple[float, float] | None
    weight_error: float


class Graph:
    """The tensors of a model by their names, and what computes them."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.stored = onnx_graph.tensors(model)

    def rounded(self, name: str) -> onnx.NodeProto | None:
        """Return the DequantizeLinear that computes a tensor."""
        node = self.producers.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def before_rounding(self, name: str) -> str | None:
        """Return the tensor that a pair of QuantizeLinear and DequantizeLinear rounds."""
        node = self.rounded(name)
        source = self.producers.get(node.input[0]) if node else None
        return source.input[0] if source and source.op_type == "QuantizeLinear" else None

    def rounds_weight(self, node: onnx.NodeProto) -> bool:
        """Whether the second input of an operator is a stored tensor that is rounded."""
        dequantize, own = self.rounded(node.input[1]), self.before_rounding(node.input[1])
        if dequantize is None:
            return False
        return dequantize.input[0] in self.stored or (own is not None and own in self.stored)

    def range_of(self, name: str) -> tuple[float, float]:
        """Return the ends of the values that a DequantizeLinear gives."""
        source = self.producers[self.producers[name].input[0]]  # its QuantizeLinear
        scale, *zero = (numpy_helper.to_array(self.stored[part]) for part in source.input[1:])
        shift = zero[0] if zero else np.uint8(0)
        ends = np.iinfo(shift.dtype)
        low, high = (float((end - int(shift)) * scale) for end in (ends.min, ends.max))
        return low, high

    def clipped(self, name: str | None) -> tuple[float, float] | None:
        """Return the ends that a ReLU or Clip gives a tensor; ``None`` if there is no such one."""
        node = self.producers.get(name or "")
        ends = [-np.inf, np.inf]
        if node is None:
            return None
        if node.op_type == "Relu":
            ends[0] = 0.0
        elif node.op_type == "Clip":
            for item in node.attribute:  # up to opset 10
                ends[item.name == "max"] = item.f
            for at, part in enumerate(node.input[1:]):
                if part and (value := self.constant(part)) is not None:
                    ends[at] = float(value)
        return ends[0], ends[1]

    def constant(self, name: str) -> np.ndarray | None:
        """Return a stored tensor, as floats where it is stored in codes."""
        while (node := self.producers.get(name)) is not None and node.op_type == "Identity":
            name = node.input[0]
        if name in self.stored:
            return numpy_helper.to_array(self.stored[name])
        dequantize = self.rounded(name)
        names = [*dequantize.input] if dequantize else []
        if dequantize is None or not all(part in self.stored for part in names):
            return None
        codes, scale, *zero = (numpy_helper.to_array(self.stored[part]) for part in names)
        if scale.ndim > 1:  # blocks of a channel have scales of their own
            return None
        axis = next((a.i for a in dequantize.attribute if a.name == "axis"), 1)
        shape = [-1 if at == axis % codes.ndim else 1 for at in range(codes.ndim)]
        scale, *zero = (part.reshape(shape) if part.ndim == 1 else part for part in (scale, *zero))
        shift = zero[0].astype(np.float32) if zero else np.float32(0)
        values: np.ndarray = (codes.astype(np.float32) - shift) * scale
        return values


def restorable(fp32: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[list[Layer], list[str]]:
    """Find the quantized layers of a file whose fp32 weights are known.

    They are known from the file itself where it stores them in fp32 and rounds them when it runs.
    Else a weight is that of its name in the fp32 file; or that of the operator, or the output, of
    the same name, if rounding may explain the difference: a scale that follows an operator is often
    multiplied into its weight before that is rounded.

    Returns
    -------
    layers
        In the order of the graph.
    left
        Names of quantized layers whose fp32 weights are not known, or whose operators are on
        integers: those are no pairs of QuantizeLinear and DequantizeLinear.
    """
    graph, source = Graph(int8), Graph(fp32)
    before = [node for node in fp32.graph.node if node.op_type in _LAYERS]
    named = {key: node for node in before for key in (node.output[0], node.name) if key}
    layers, left = [], []
    for place, node in enumerate(int8.graph.node):
        name = node.name or node.output[0]
        if node.op_type in _INTEGER:
            left.append(name)
        if node.op_type not in _LAYERS or not graph.rounds_weight(node):
            continue
        weight, bias = (
            _by_name(graph, source, node.input[at]) if len(node.input) > at else None
            for at in (1, 2)
        )
        rounded, most = graph.constant(node.input[1]), np.inf
        same = named.get(node.name) or named.get(node.output[0])
        if weight is None and same is not None:  # which may have been scaled before it was rounded
            weight, bias = (
                source.constant(same.input[at]) if len(same.input) > at else None for at in (1, 2)
            )
            most = _NEAR
        error = float("nan")  # of weights that are rounded only when the file runs
        if rounded is not None and weight is not None and rounded.shape == weight.shape:
            error = float(np.linalg.norm(rounded - weight) / (np.linalg.norm(weight) or 1))
        elif weight is None or graph.before_rounding(node.input[1]) is None:
            error = np.inf
        if weight is None or error > most or np.isinf(error):
            left.append(name)
            continue
        clip = source.clipped(graph.before_rounding(node.input[0]))
        layers.append(Layer(name, node.op_type, place, weight, bias, clip, error))
    return layers, left


def _by_name(graph: Graph, source: Graph, rounded: str) -> np.ndarray | None:
    """The fp32 values of a rounded tensor: those in the file itself, or those of its name."""
    own, dequantize = graph.before_rounding(rounded), graph.rounded(rounded)
    if own is not None:
        return graph.constant(own)
    for name in (rounded, *(dequantize.input[:1] if dequantize else [])):
        for suffix in ("", *_SUFFIXES):
            if name.endswith(suffix) and name.removesuffix(suffix) in source.stored:
                return source.constant(name.removesuffix(suffix))
    return None


def restored(model: onnx.ModelProto, layers: list[Layer]) -> onnx.ModelProto:
    """Copy a model, some layers of which get back their weights and inputs without rounding."""
    made = copy.deepcopy(model)
    graph = Graph(made)
    for layer in sorted(layers, key=lambda one: -one.place):  # so that places before stay right
        node = made.graph.node[layer.place]
        for at, values in ((1, layer.weight), (2, layer.bias)):
            if values is not None:
                name = f"{layer.place}.{at} in fp32"
                made.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
                node.input[at] = name
        source = graph.before_rounding(node.input[0])
        if source is None:
            continue
        clip = layer.clip or graph.range_of(node.input[0])
        names = [source]
        for at, end in enumerate(clip):
            names.append(f"{layer.place}.{at} end" if np.isfinite(end) else "")
            if names[-1]:
                made.graph.initializer.append(
                    numpy_helper.from_array(np.array(end, np.float32), names[-1])
                )
        node.input[0] = f"{layer.place}.0 in fp32"
        made.graph.node.insert(layer.place, onnx.helper.make_node("Clip", names, [node.input[0]]))
    return made


class Damage(NamedTuple):
    """What :func:`layer_damage` found.

    Attributes
    ----------
    rows
        The table ``file_layers``.
    left
        Quantized layers whose fp32 weights are not known.
    warnings
        What is to be said of the images.
    """

    rows: pd.DataFrame
    left: list[str]
    warnings: list[str]


def layer_damage(
    fp32: Path,
    int8: Path,
    data: Path,
    policy: "Policy",
    *,
    label: str = "label",
    classes: tuple[str, ...] = (),
    images: int = 500,
) -> Damage:
    """Restore each quantized layer of a file alone, and compare its answers by group.

    Parameters
    ----------
    fp32, int8
        ONNX files of one network; the second in the QDQ format.
    data, policy, label, classes
        As in :func:`quantskew.deployment.evidence.from_files`.
    images
        Test images to look at, spread over all; they are held in memory.

    Raises
    ------
    FileError
        When a file cannot be run, the second has no quantized layers whose fp32 weights are known,
        or the layers of the two do not correspond.
    """
    pair = opened([fp32, int8], policy)
    foreign = [str(file.path) for file in pair if not isinstance(file, OnnxRuntime)]
    if foreign:
        raise FileError(f"{' and '.join(foreign)}: layers are restored in ONNX files alone")
    quantized = onnx.load(int8)
    layers, left = restorable(onnx.load(fp32), quantized)
    if left:
        # batch normalization and scales may have been folded before the file was quantized
        found = restorable(_folded(fp32), quantized)
        layers, left = found if len(found[1]) < len(left) else (layers, left)
    if not layers:
        raise FileError(
            f"{int8} has no quantized layers that {fp32} has in fp32: {len(left)} layers have "
            f"weights that a DequantizeLinear gives to {', '.join(_LAYERS)} (the QDQ "
            "format), and none of them has a layer of its name and shape there"
        )
    apart = pd.Series([layer.weight_error for layer in layers]).median()
    if apart > _OTHER:
        raise FileError(
            f"the weights of {int8} are not those of {fp32} rounded: half of the {len(layers)} "
            f"layers differ by {100 * apart:.0f} % or more; give the file that it was made from"
        )
    listed = read_labelled(data, label)
    names = class_names({"--classes": classes, str(data): listed.classes})
    feed = Feed(listed, pair, policy, at_most=images)
    batches = [*feed]
    rows = listed.rows.iloc[np.concatenate([part for part, _ in batches])].reset_index(drop=True)

    def scores(file: Network, place: int) -> np.ndarray:
        return np.concatenate([file(values[place]) for _, values in batches])

    before, after = (
        answered(file, scores(file, place), policy.threshold, names)
        for place, file in enumerate(pair)
    )
    check_finite({str(fp32): before.scores, str(int8): after.scores}, rows["id"].to_numpy())
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "restored.onnx")
        every = Layer(EVERY, "", -1, np.empty(0), None, None, float("nan"))
        for layer in tqdm([every, *layers], unit="layer", disable=None):
            some = layers if layer is every else [layer]
            onnx.save(restored(quantized, some), path)
            file = open_file(path, output=policy.output, layout=pair[1].layout)
            made[layer.name] = answered(file, scores(file, 1), policy.threshold, names)
            if layer is every:
                check_source(fp32, int8, before.scores, after.scores, made[EVERY].scores)
    of = divided(rows, names, before.n, policy, data, int8)
    parts = [
        _by_group(layer, of.labels, (before, after, made[layer.name]), division)
        for layer in (every, *layers)
        for division in of.divisions
    ]
    remarks = [remark for file in pair for remark in file.remarks]
    return Damage(pd.concat(parts, ignore_index=True), left, [*remarks, *feed.warnings])


def _folded(path: Path) -> onnx.ModelProto:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "folded.onnx")
        quant_pre_process(str(path), str(target), skip_symbolic_shape=True)
        return onnx.load(target)


def check_source(
    fp32: Path, int8: Path, before: np.ndarray, after: np.ndarray, restored: np.ndarray
) -> None:
    """Refuse files of which one with the weights of the other is much further from it than before.

    Other roundings stay, so that restoring may bring the answers no nearer; but where it makes them
    twice as far off, the layers of the two files do not correspond.
    """
    is_now, would_be = (float(_distance(scores, before).mean()) for scores in (after, restored))
    if would_be > 2 * is_now:
        raise FileError(
            f"{int8} with the weights of {fp32} is further from its answers than without: their "
            f"mean distance is {is_now:.3g} as it is, and {would_be:.3g} with all layers restored; "
            "give the fp32 file that it was made from"
        )


def _distance(scores: np.ndarray, others: np.ndarray) -> np.ndarray:
    distance: np.ndarray = np.linalg.norm(scores - others, axis=1)
    return distance


def _by_group(
    layer: Layer,
    labels: np.ndarray,
    files: tuple[Answered, Answered, Answered],
    division: Grouping,
) -> pd.DataFrame:
    """Compare the fp32 file, the int8 file and the one with the layer restored."""
    before, after, restored = files
    right = [file.classes == labels for file in files]

    def of_groups(values: np.ndarray) -> np.ndarray:
        known = division.codes >= 0
        return np.bincount(division.codes[known], values[known], len(division.names))

    n = division.sizes
    return pd.DataFrame(
        {
            "layer": layer.name,
            "operator": layer.operator,
            "position": layer.place,
            "weight_error": layer.weight_error,
            "attribute": division.attribute,
            "group": division.names,
            "n": n,
            **{
                name: of_groups(hits) / n
                for name, hits in zip(("fp32", "int8", "restored"), right, strict=True)
            },
            "regained": of_groups(right[2] & ~right[1]).astype(int),
            "lost": of_groups(right[1] & ~right[2]).astype(int),
            "agreement_int8": of_groups(after.classes == before.classes) / n,
            "agreement_restored": of_groups(restored.classes == before.classes) / n,
            "distance_int8": of_groups(_distance(after.scores, before.scores)) / n,
            "distance_restored": of_groups(_distance(restored.scores, before.scores)) / n,
        }
    )


def worst_layers(rows: pd.DataFrame) -> pd.DataFrame:
    """The group that each layer hurts most, of the layers whose restoring brings a group nearest.

    A row a layer of the table ``file_layers``: that of the group whose distance to the fp32 file
    falls most when the layer is restored, in the order of this fall, ``nearer``.
    """
    single = rows[rows["layer"] != EVERY]
    fall = single["distance_int8"] - single["distance_restored"]
    single = single.assign(nearer=fall).sort_values("nearer", ascending=False, kind="stable")
    return single.drop_duplicates("layer").reset_index(drop=True)


def lines(found: Damage, most: int = 12) -> Iterator[str]:
    """Say which layers bring a group nearest to the fp32 file, as lines of text."""
    yield from (f"warning: {text}" for text in found.warnings)
    if found.left:
        yield (
            f"warning: {len(found.left)} quantized layers are operators on integers, or have no "
            f"fp32 weights of their name and shape; they stay as they are: "
            f"{', '.join(found.left[:3])}"
        )
    yield "distance to the scores of fp32, and images regained and lost, of the group hurt most"
    worst = worst_layers(found.rows)
    everything = found.rows[found.rows["layer"] == EVERY]
    for rows in (worst.head(most), everything):
        for row in rows.itertuples():
            yield (
                f"{row.layer[-40:]:40s} {row.attribute} {row.group}: {row.distance_int8:.3g} → "
                f"{row.distance_restored:.3g}; +{row.regained} −{row.lost} of {row.n}"
            )
    if len(worst) > most:
        yield f"{len(worst) - most} more layers are in the table (-o)"
