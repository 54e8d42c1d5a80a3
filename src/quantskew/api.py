"""The Python interface: audit, quantize and compare any trained network.

    result = audit(model, loader, bits=(8, 4), groups=["gender", "race*gender"])
    result.to_frame()                      # accuracy of every group, FVO, worst group, intervals
    quantized = quantize(model, method="ptq", bits=4)

The work is done by the functions that the stages of a study call, so the tables are the same; the
data set is named ``data`` and the only seed is 0. :mod:`quantskew.inputs` describes which kinds of
data can be passed.
"""

import copy
import itertools
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypedDict, Unpack

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from quantskew import methods as composing
from quantskew import models
from quantskew.analysis import result
from quantskew.analysis.effects import Predictions, analyze
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Groups, groupings, unit_codes
from quantskew.data.loading import Samples
from quantskew.description import describe
from quantskew.errors import close_names
from quantskew.inputs import Data, samples
from quantskew.methods import MethodError
from quantskew.models import CPU
from quantskew.names import BASELINE, FULL_PRECISION, Point, Variant, width_name
from quantskew.params import load
from quantskew.quantization import packing
from quantskew.quantization.fitting import Qat
from quantskew.quantization.layers import dry_run
from quantskew.quantization.method import Method
from quantskew.quantization.packing import Quantized
from quantskew.schemas import TABLES
from quantskew.starting import study_files
from quantskew.training.recipe import Recipe
from quantskew.training.training import Training
from quantskew.variants import widths

AnyMethod = Method | Mapping[str, Any] | str
DATA = "data"
SEED = 0
NEARLY_ALL = 0.95
"""Share of the weights below which a result says how many are at the width it speaks of."""
PLAIN = Method()
_TRAINING, _QAT, _GROUPS, _STATISTICS = Training(), Qat(), Groups(), Statistics()


class Applied(NamedTuple):
    """A method, its name in the tables, and the bits at which it is applied."""

    name: str
    method: Method
    bits: int


class Material(NamedTuple):
    """Images and settings that :func:`quantskew.methods.apply` takes; see :func:`material`."""

    example: Tensor
    calibration: Samples | None
    train: Samples | None
    training: Training
    qat_settings: Qat
    held_out: Samples | None


class Options(TypedDict, total=False):
    """Options of :func:`compare` that :func:`audit` passes on."""

    calibration: Data | None
    train: Data | None
    training: Training
    qat: Qat
    grouping: Groups
    statistics: Statistics
    params: str | Path | None
    unit: str | None


@dataclass(frozen=True, repr=False)
class Result(result.Result):
    """What quantization does to every group.

    Attributes
    ----------
    frames, study, predictions, attributes
        As in :class:`quantskew.analysis.result.Result`; ``frames`` holds ``groups`` too.
    networks
        Quantized networks by (method, bits), which :func:`quantskew.quantization.packing.save`
        writes to files.
    """

    networks: dict[tuple[str, int], Quantized]

    def sentences(self) -> list[str]:
        """Say how good the reference is, who is hurt, and which networks are narrow in part only.

        A reference that does not beat the most frequent class is no basis for any verdict.
        """
        labels, answers = self.predictions["label"], self.predictions[BASELINE]
        right, most = (answers == labels).mean(), labels.value_counts(normalize=True)
        reference = f"fp32 answers {right:.1%} of {len(labels):,} images correctly"
        if right <= most.iloc[0]:
            return [
                f"{reference}, and always answering {most.index[0]!r} would reach "
                f"{most.iloc[0]:.1%}: it is no basis for a verdict. Check how images are scaled "
                "and normalized, and the order of the classes."
            ]
        said = [f"{reference}.", *super().sentences()]
        for (method, bits), made in self.networks.items():
            share = packing.quantized_share(made.network, made.codes()).weights
            if share < NEARLY_ALL:
                parts = list(made.notes.get("left_out", {}))
                more = f" and {len(parts) - 5} more" if len(parts) > 5 else ""
                said.append(
                    f"{method} at {width_name(bits)} holds {share:.0%} of the weights at that "
                    f"width; in floating point stay {', '.join(parts[:5])}{more}."
                )
        return said


def audit(
    model: nn.Module,
    data: Data,
    *,
    bits: int | Sequence[int] = (8, 4, 2),
    groups: str | Sequence[str] = ("label",),
    method: AnyMethod = PLAIN,
    **options: Unpack[Options],
) -> Result:
    """Measure how much accuracy each group loses when a network is quantized.

    Parameters
    ----------
    model
        A trained image classifier in float32; it is not changed.
    data
        Labelled test images with their attributes; see :mod:`quantskew.inputs`.
    bits
        Widths of the weights, 2 to 8.
    groups
        Attributes that define the groups, ``a*b`` for intersections; the first one is plotted.
    method
        How to quantize, as in :func:`named`; plain post-training quantization by default.
    **options
        As in :func:`compare`.

    Examples
    --------
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    >>> images, labels = torch.rand(60, 1, 8, 8), torch.arange(60) % 2
    >>> result = audit(network, (images, labels), bits=4, statistics=Statistics(draws=100))
    >>> list(result.networks)
    [('ptq', 4)]
    """
    name = "ptq" if method == PLAIN else method if isinstance(method, str) else "method"
    own = {name: method}
    return compare(
        model, methods=own, data=data, bits=bits, groups=groups, reference=name, **options
    )


def compare(
    model: nn.Module,
    *,
    methods: Mapping[str, AnyMethod] | Sequence[str],
    data: Data,
    bits: int | Sequence[int] = (8, 4, 2),
    groups: str | Sequence[str] = ("label",),
    calibration: Data | None = None,
    train: Data | None = None,
    training: Training = _TRAINING,
    qat: Qat = _QAT,
    grouping: Groups = _GROUPS,
    statistics: Statistics = _STATISTICS,
    params: str | Path | None = None,
    reference: str = "ptq",
    unit: str | None = None,
) -> Result:
    """Compare methods of quantization by their effect on each group.

    Every method is compared with the unquantized network, and with ``reference`` if that is one of
    the methods.

    Parameters
    ----------
    model, data, bits, groups
        As in :func:`audit`.
    methods
        Names of methods in a parameter file, or methods by names of your choice.
    calibration, train, training, qat, params
        As in :func:`quantize`.
    grouping
        Bins of numeric attributes, and the size below which a group is left out of maxima.
    unit
        Attribute that names who each image comes from, where several are of one person or video.
    statistics
        Confidence level and number of resamples.
    reference
        Name of the method with which all others are compared at the same width.

    Raises
    ------
    UserError
        When data, groups or methods are not valid; the message says what would be.
    """
    by_name = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    grid_bits = (bits,) if isinstance(bits, int) else tuple(bits)
    resolved = {name: named(method, params) for name, method in by_name.items()}
    grid = [Applied(n, m, width) for n, m in resolved.items() for width in widths(m, grid_bits)]
    if not grid:
        raise MethodError("no method at any width is given, so nothing is compared")
    if BASELINE in resolved:
        raise MethodError(f"a method is called {BASELINE!r}, as the network itself is; rename it")
    model = models.own(model)
    test = samples(data, model, split="test")
    inputs = material(model, calibration, train, training, qat, example=test.images)
    return evaluate(
        model, grid, test, inputs, bits=grid_bits, unit=unit,
        groups=groups, grouping=grouping, statistics=statistics, reference=reference,
    )  # fmt: skip


def quantize(
    model: nn.Module,
    *,
    method: AnyMethod = PLAIN,
    bits: int = 8,
    calibration: Data | None = None,
    train: Data | None = None,
    training: Training = _TRAINING,
    qat: Qat = _QAT,
    params: str | Path | None = None,
) -> Quantized:
    """Quantize a network.

    Parameters
    ----------
    model
        A trained image classifier in float32; it is not changed.
    method
        How to quantize, as in :func:`named`.
    bits
        Width of the weights, 2 to 8; ignored by floating-point formats, which have a fixed width.
    calibration
        Images for methods that need calibration; of a file with two parts, the training part.
    train
        Training images for QAT, which are also used for calibration unless ``calibration`` is set.
    training, qat
        How QAT trains.
    params
        Parameter file in which the name of a method is looked up; by default ``params.yaml`` of the
        folder in which the program runs, or that of the default study where there is none.

    Returns
    -------
    Quantized
        ``network`` is the quantized network on the CPU, ``weights`` are its codes, and ``notes``
        list the layers left out and how many calibration images each group has.

    Raises
    ------
    MethodError
        When the method needs images that are missing.

    Warns
    -----
    UserWarning
        When calibration images are passed to a method that uses none.

    Examples
    --------
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> list(quantize(network, bits=4).weights)
    ['1']
    """
    model, resolved = models.own(model), named(method, params)
    if calibration is not None and not resolved.needs_calibration():
        warnings.warn(
            "calibration cannot matter to this method, which quantizes weights without any images",
            stacklevel=2,
        )
    return _apply(model, resolved, bits, material(model, calibration, train, training, qat))


def named(method: AnyMethod, path: str | Path | None = None) -> Method:
    """Return a method, which may be given as itself, by its settings, or by its name in a file.

    The file is that of ``path``; by default ``params.yaml`` of the folder in which the program
    runs, and where there is none, that of the default study. A :class:`MethodError` is raised when
    the settings are not valid, or the file has no method of this name.

    Examples
    --------
    >>> named({"training": "qat"}).training.trains
    True
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, Mapping):
        try:
            return Method.model_validate(method)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise MethodError(f"not a valid method: {'; '.join(lines)}") from None
    if path is None:
        own = Path("params.yaml")
        path = own if own.is_file() else study_files() / own
    known = load(path).all_methods()
    if method not in known:
        raise MethodError(
            f"{path} has no method {method!r}; it has {', '.join(known)}"
            f"{close_names(method, known)}"
        )
    return known[method]


def evaluate(
    model: nn.Module,
    grid: Sequence[Applied],
    test: Samples,
    inputs: Material,
    *,
    bits: Sequence[int],
    groups: str | Sequence[str],
    grouping: Groups = _GROUPS,
    statistics: Statistics = _STATISTICS,
    reference: str = "ptq",
    unit: str | None = None,
) -> Result:
    """Apply methods and measure their effects: :func:`compare` for any combination of widths."""
    label = type(model).__name__.lstrip("_")
    by = (groups,) if isinstance(groups, str) else tuple(groups) or ("label",)
    study = Study(
        datasets=(DATA,),
        models=(label,),
        bits=tuple(bits),
        seeds=(SEED,),
        methods={a.name: a.method.described() for a in grid},
        reference=reference,
        groups=grouping.model_copy(update={"by": {DATA: by}}),
        statistics=statistics,
    )
    units = unit_codes(test.attributes, unit)
    # an unknown attribute is refused before any work
    divisions = groupings(test.attributes, by, grouping, units)
    networks = {(a.name, a.bits): _apply(model, a.method, a.bits, inputs) for a in grid}
    fp32 = outputs(model, test)
    logits = {(BASELINE, FULL_PRECISION): fp32}
    logits |= {key: outputs(made.network, test) for key, made in networks.items()}
    labels, by_group, predicted = test.labels.numpy(), [], {}
    for (name, width), values in logits.items():
        rows = describe(values, fp32, labels, divisions)["groups"]
        by_group.append(Variant(DATA, label, SEED, name, width).name(rows))
        predicted[Point(DATA, label, name, width)] = values.argmax(1)[None]
    predictions = Predictions(labels, fp32.shape[1], [SEED], predicted)
    found = analyze(predictions, divisions, study, units)
    frames = found._asdict() | {"groups": pd.concat(by_group)}
    for table, rows in frames.items():
        columns, key = TABLES[table].schema.names, list(TABLES[table].key)
        # an index may have the name of a key column
        frames[table] = rows[columns].reset_index(drop=True).sort_values(key, ignore_index=True)
    unnamed = range(len(test.classes), fp32.shape[1])
    classes = np.array([*map(str, (*test.classes, *unnamed))])
    answers = {
        name if name == BASELINE else f"{name} {width_name(width)}": classes[values.argmax(1)]
        for (name, width), values in logits.items()
    }
    said = pd.DataFrame({"id": test.ids, "label": classes[labels], **answers})
    return Result(frames, study, said, test.attributes, networks)


def outputs(network: nn.Module, test: Samples) -> np.ndarray:
    """Logits of a network, shape (n, classes); the network is neither moved nor changed."""
    return models.logits(copy.deepcopy(network).to(models.device()), test.images).numpy()


def material(
    model: nn.Module,
    calibration: Data | None = None,
    train: Data | None = None,
    training: Training = _TRAINING,
    qat: Qat = _QAT,
    *,
    example: Tensor | None = None,
) -> Material:
    """Read the images that methods may use.

    Two images, by preference of the calibration set, then of ``example``, are run through the
    network only to see which layers are used and in which order.
    """
    train_set = None if train is None else samples(train, model, split="train")
    seen = train_set if calibration is None else samples(calibration, model, split="train")
    if seen is not None:
        example = seen.images
    example = models.as_input((_any_input(model) if example is None else example)[:2], CPU)
    # images given beside those of the training are taken as not trained on
    apart = None if calibration is None or train is None else seen
    return Material(example, seen, train_set, training, qat, apart)


def _any_input(model: nn.Module) -> Tensor:
    """Blank images of a common size that the network accepts."""
    network = copy.deepcopy(model).cpu()
    for channels, size in itertools.product((3, 1), (224, 32, 28, 64, 48, 96, 128, 16, 8)):
        images = torch.zeros(2, channels, size, size)
        try:
            dry_run(network, images)
        except models.ModelError:
            raise
        except Exception:  # layers raise various errors for shapes that do not fit
            continue
        return images
    raise MethodError("the network accepts no common image size; give some images as calibration")


def _apply(model: nn.Module, method: Method, bits: int, inputs: Material) -> Quantized:
    """Apply a method in memory."""
    _refuse(method, bits, inputs)
    network = copy.deepcopy(model).cpu()
    quantized = composing.apply(network, method, bits, seed=SEED, **inputs._asdict())
    # the network carries its codes, so that packed_bytes needs nothing else
    vars(quantized.network)["quantized"] = quantized[1:]
    return quantized


def packed_bytes(network: nn.Module) -> int:
    """File size of a network: of its packed codes if it was quantized here, else of its tensors."""
    network = copy.deepcopy(network).cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        try:
            packing.save(path, Quantized(network, *vars(network).get("quantized", ({}, {}, {}))))
        except packing.ChangedError:
            packing.save(path, Quantized(network, {}, {}, {}))
        return path.stat().st_size


def _refuse(method: Method, bits: int, inputs: Material) -> None:
    if method.weights.own_bits is None and bits not in range(2, 9):
        raise MethodError(f"bits: got {bits}; weights have 2 to 8 bits")
    if method.recipe != Recipe() and not method.training.trains:
        raise MethodError(
            "the method has a recipe, which describes how the fp32 network is trained; train the "
            "network that way and leave the recipe out, or set training: qat"
        )
    if method.training.trains and inputs.train is None:
        raise MethodError("training: qat trains the network; give its training images as train")
    if method.needs_calibration() and inputs.calibration is None:
        raise MethodError(
            "the method looks at calibration images; give some as calibration, such as 256 of the "
            "training set"
        )
