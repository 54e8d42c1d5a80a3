"""The Python interface: audit, quantize and compare any trained network.

    result = audit(model, loader, bits=(8, 4), groups=["gender", "race*gender"])
    result.to_frame()                      # accuracy of every group, FVO, worst group, intervals
    quantized = quantize(model, method="ptq", bits=4)

The work is done by the functions that the stages call, so the tables are those of the study, with
the data set named ``data`` and one seed, 0. What kinds of data are understood stands in
:mod:`quantskew.inputs`.
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
from matplotlib.figure import Figure
from pydantic import ValidationError
from torch import Tensor, nn

from quantskew import methods as composing
from quantskew import models
from quantskew.analysis import answer
from quantskew.analysis.effects import Predictions, analyze
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.study import Statistics, Study
from quantskew.data.groups import Groups, groupings, unit_codes
from quantskew.data.loading import Samples
from quantskew.description import describe
from quantskew.errors import UserError, close_names
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
    """A method at a width under its name in the tables."""

    name: str
    method: Method
    bits: int


class Material(NamedTuple):
    """What methods may look at besides the network; see :func:`material`."""

    example: Tensor
    calibration: Samples | None
    train: Samples | None
    training: Training
    qat: Qat


class Options(TypedDict, total=False):
    """Options of :func:`compare` that :func:`audit` hands on."""

    calibration: Data | None
    train: Data | None
    training: Training
    qat: Qat
    grouping: Groups
    statistics: Statistics
    params: str | Path
    unit: str | None


@dataclass(frozen=True)
class Result:
    """What quantization does to every group.

    Attributes
    ----------
    frames
        ``levels``, ``effects``, ``certificates`` and ``groups``: tables by name, as
        :data:`quantskew.TABLES` describes them.
    networks
        What was made, by (method, bits), to look at or to keep with
        :func:`quantskew.quantization.packing.save`.
    study
        The parameters that the tables were computed with.
    """

    frames: dict[str, pd.DataFrame]
    networks: dict[tuple[str, int], Quantized]
    study: Study

    def to_frame(self, table: str = "levels") -> pd.DataFrame:
        """Return one of the tables."""
        if table not in self.frames:
            raise UserError(
                f"no table {table!r}; there are {', '.join(self.frames)}"
                f"{close_names(table, list(self.frames))}"
            )
        return self.frames[table].copy()

    def to_csv(self, path: str | Path, table: str = "levels") -> None:
        """Write one of the tables as CSV."""
        self.to_frame(table).to_csv(path, index=False)

    def plot(self, view: str | None = None) -> Figure:
        """Draw the first grouping.

        Parameters
        ----------
        view
            Name of a figure that needs no other tables than these: ``accuracy_by_group`` (the
            default where there is only plain quantization), ``fvo_by_width`` (the default of
            several methods), ``trade_off``, ``loss_by_group`` or ``logits``.
        """
        alone = list(self.study.methods) == [self.study.reference]
        view = view or ("accuracy_by_group" if alone else "fvo_by_width")
        known = [name for name, one in FIGURES.items() if {*one.tables} <= {*self.frames}]
        if view not in known:
            raise UserError(
                f"no view {view!r}; there are {', '.join(known)}{close_names(view, known)}"
            )
        figure = FIGURES[view]
        return figure.drawing.canvas(figure.rows(self.frames, self.study))

    def __str__(self) -> str:
        head = answer.headline(self.frames["effects"], self.study)
        if head.empty:
            said = [f"quantskew result: {', '.join(self.study.methods)}; see to_frame()"]
        else:
            said = answer.sentences(head, self.study)
        return "\n".join([*said, *self._caveats()])

    def _caveats(self) -> list[str]:
        """Name the networks that are at their width in part only."""
        said = []
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
    """Say which groups lose what when a network is quantized.

    Parameters
    ----------
    model
        A trained classifier of images, in float32; not changed.
    data
        Labelled test images with their attributes; see :mod:`quantskew.inputs`.
    bits
        Widths of the weights, 2 to 8.
    groups
        Attributes to divide by, ``a*b`` for intersections; the first is the one plotted.
    method
        How to quantize; plain post-training quantization by default. See :func:`named`.
    **options
        As in :func:`compare`.
    """
    name = "ptq" if method == PLAIN else method if isinstance(method, str) else "method"
    return compare(
        model,
        methods={name: method},
        data=data,
        bits=bits,
        groups=groups,
        reference=name,
        **options,
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
    params: str | Path = "params.yaml",
    reference: str = "ptq",
    unit: str | None = None,
) -> Result:
    """Compare methods of quantization by what they do to each group.

    Every method is compared with the network as it is, and with ``reference`` if it is among them.

    Parameters
    ----------
    model, data, bits, groups
        As in :func:`audit`.
    methods
        Names of methods in a parameter file, or methods by a name of your own.
    calibration, train, training, qat, params
        As in :func:`quantize`.
    grouping
        Bins of numeric attributes, and the size below which a group is left out of maxima.
    unit
        Attribute that names who each image comes from, where several are of one person or video.
    statistics
        Confidence and number of draws.
    reference
        Name of the method that all others are compared with, width by width.

    Raises
    ------
    UserError
        When data, groups or methods do not fit; the message says what would.
    """
    given = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    found = {name: named(method, params) for name, method in given.items()}
    wanted = (bits,) if isinstance(bits, int) else tuple(bits)
    grid = [Applied(n, m, width) for n, m in found.items() for width in widths(m, wanted)]
    model = models.own(model)
    test = samples(data, model, split="test")
    seen = material(model, calibration, train, training, qat, example=test.images)
    return evaluate(
        model, grid, test, seen,
        bits=wanted, groups=groups, grouping=grouping, statistics=statistics, reference=reference,
        unit=unit,
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
    params: str | Path = "params.yaml",
) -> Quantized:
    """Quantize a network.

    Parameters
    ----------
    model
        Trained, in float32; not changed.
    method
        See :func:`named`.
    bits
        Width of the weights, 2 to 8; a floating-point format has its own.
    calibration
        Images for methods that look at some; the training part of a file with two.
    train
        Training images, for QAT; they serve for calibration too if there are no others.
    training, qat
        How QAT trains.
    params
        File in which the name of a method is looked up.

    Returns
    -------
    Quantized
        ``network`` is the quantized one on the CPU, ``weights`` its codes, and ``notes`` say what
        was left out and of whom the calibration set consists, or that it cannot matter.

    Raises
    ------
    MethodError
        When the method needs images that are not given.

    Warns
    -----
    UserWarning
        When calibration images are given and the method looks at none.
    """
    model, chosen = models.own(model), named(method, params)
    if calibration is not None and not chosen.needs_calibration():
        warnings.warn(
            "calibration cannot matter to this method: it quantizes weights alone, from themselves",
            stacklevel=2,
        )
    return _apply(model, chosen, bits, material(model, calibration, train, training, qat))


def named(method: AnyMethod, path: str | Path = "params.yaml") -> Method:
    """Return a method: one, a mapping of its parts, or the name of one in a parameter file."""
    if isinstance(method, Method):
        return method
    if isinstance(method, Mapping):
        try:
            return Method.model_validate(method)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise MethodError(f"no method: {'; '.join(lines)}") from None
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
    given: Material,
    *,
    bits: Sequence[int],
    groups: str | Sequence[str],
    grouping: Groups = _GROUPS,
    statistics: Statistics = _STATISTICS,
    reference: str = "ptq",
    unit: str | None = None,
) -> Result:
    """Apply methods and describe what each does: :func:`compare` for a grid of any shape."""
    label = type(model).__name__.lstrip("_")
    by = (groups,) if isinstance(groups, str) else tuple(groups) or ("label",)
    study = Study(
        datasets=(DATA,),
        models=(label,),
        bits=tuple(bits),
        seeds=(SEED,),
        methods={a.name: a.method.model_dump() for a in grid},
        reference=reference,
        groups=grouping.model_copy(update={"by": {DATA: by}}),
        statistics=statistics,
    )
    units = unit_codes(test.attributes, unit)
    # a wrong name stops here, before any work
    divisions = groupings(test.attributes, by, grouping, units)
    networks = {(a.name, a.bits): _apply(model, a.method, a.bits, given) for a in grid}
    fp32 = outputs(model, test)
    logits = {(BASELINE, FULL_PRECISION): fp32}
    logits |= {key: outputs(made.network, test) for key, made in networks.items()}
    described = []
    predicted = {}
    for (name, width), values in logits.items():
        variant = Variant(DATA, label, SEED, name, width)
        rows = describe(values, fp32, test.labels.numpy(), divisions)
        described.append({table: variant.name(frame) for table, frame in rows.items()})
        predicted[Point(DATA, label, name, width)] = values.argmax(1)[None]
    given_answers = Predictions(test.labels.numpy(), fp32.shape[1], [SEED], predicted)
    frames = analyze(given_answers, divisions, study, units)._asdict()
    frames["groups"] = pd.concat([tables["groups"] for tables in described])
    return Result({n: _canonical(n, rows) for n, rows in frames.items()}, networks, study)


def outputs(network: nn.Module, test: Samples) -> np.ndarray:
    """Logits of a network, (n, classes), with the network left where and as it is."""
    moved = copy.deepcopy(network).to(models.device())
    return models.logits(moved, test.images).numpy()


def _canonical(table: str, rows: pd.DataFrame) -> pd.DataFrame:
    spec = TABLES[table]
    chosen = rows[spec.schema.names].reset_index(drop=True)
    return chosen.sort_values(list(spec.key), ignore_index=True)


def material(
    model: nn.Module,
    calibration: Data | None = None,
    train: Data | None = None,
    training: Training = _TRAINING,
    qat: Qat = _QAT,
    *,
    example: Tensor | None = None,
) -> Material:
    """Read what methods may look at; ``example`` is any two images, to see which layers run."""
    learnt_from = None if train is None else samples(train, model, split="train")
    seen = learnt_from if calibration is None else samples(calibration, model, split="train")
    if seen is not None:
        example = seen.images
    some = models.as_input((_any_input(model) if example is None else example)[:2], CPU)
    return Material(some, seen, learnt_from, training, qat)


def _any_input(model: nn.Module) -> Tensor:
    """Find images that a network takes: which layers run in which order is all they tell."""
    network = copy.deepcopy(model).cpu()
    for channels, size in itertools.product((3, 1), (224, 32, 28, 64, 48, 96, 128, 16, 8)):
        images = torch.zeros(2, channels, size, size)
        try:
            dry_run(network, images)
        except models.ModelError:
            raise
        except Exception:  # whatever its layers say of a shape that does not fit
            continue
        return images
    raise MethodError("no usual size of images suits the network; give some as calibration")


def _apply(model: nn.Module, method: Method, bits: int, given: Material) -> Quantized:
    """Apply a method in memory, and let the network carry its codes."""
    example, some, train, training, settings = given
    _refuse(method, bits, given)
    made = composing.apply(
        copy.deepcopy(model).cpu(),
        method,
        bits,
        example=example,
        calibration=some,
        train=train,
        training=training,
        qat_settings=settings,
        seed=SEED,
    )
    # the codes go where the network goes, so that its size can be told from the network alone
    vars(made.network)["quantized"] = made[1:]
    return made


def packed_bytes(network: nn.Module) -> int:
    """Size of the file of a network: packed codes if it was quantized here, else its tensors."""
    network = copy.deepcopy(network).cpu()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "network.safetensors")
        try:
            packing.save(path, Quantized(network, *vars(network).get("quantized", ({}, {}, {}))))
        except ValueError:  # its weights were changed after they were quantized
            packing.save(path, Quantized(network, {}, {}, {}))
        return path.stat().st_size


def _refuse(method: Method, bits: int, given: Material) -> None:
    recipe, learns = method.recipe, method.training.trains
    if method.weights.own_bits is None and bits not in range(2, 9):
        raise MethodError(f"bits: got {bits}; weights have 2 to 8 bits")
    if recipe != Recipe() and not learns:
        raise MethodError(
            "the method has a recipe, which is how the fp32 network is trained; train it so and "
            "leave the recipe out, or give training: qat"
        )
    if learns and given.train is None:
        raise MethodError("training: qat trains the network; give its training images as train")
    if method.needs_calibration() and given.calibration is None:
        raise MethodError(
            "the method looks at calibration images; give some as calibration, such as 256 of the "
            "training set"
        )
