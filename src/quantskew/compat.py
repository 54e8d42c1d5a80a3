"""The interface that the README of Beyond-Naive-Quantization describes.

==================================  =============================================================
name of a method (any case)         what it does
==================================  =============================================================
``PTQ``                             plain post-training quantization of the weights
``bias_aware``,                     PTQ with activations of 8 bits, whose clipping ranges minimize
``bias_aware_calibration``          the error of the group with the largest error, on a calibration
                                    set with equally many images of every group
``mixed_precision``                 bit allocation that favours the worst-off group, at the size of
                                    the uniform width
``QAT``                             quantization-aware training (LSQ)
==================================  =============================================================

A suffix ``_INT8`` … ``_INT2`` of the name sets the width. Groups are all combinations of the
attributes of the images (see :mod:`quantskew.inputs`), or the classes if there are none. Sizes are
those of files, and gaps are measured.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from quantskew import api
from quantskew.data.groups import Groups, groupings
from quantskew.data.loading import Samples
from quantskew.errors import close_names
from quantskew.fairness import catalogue
from quantskew.fairness.metrics import worst_group
from quantskew.fairness.parity import Answers
from quantskew.impact.logits import per_sample
from quantskew.inputs import Data, samples
from quantskew.methods import MethodError
from quantskew.quantization.fitting import Qat
from quantskew.quantization.method import Method
from quantskew.training.losses import Constrained, DemographicParity
from quantskew.training.training import Training

MEGABYTE = 1e6
_BALANCED = {
    "activations": {"kind": "static", "range": {"kind": "mse", "objective": "worst_group"}},
    "calibration": {"choice": "balanced"},
}
_SPARING = {
    "policy": {"kind": "measured", "objective": "worst_group"},
    "calibration": {"choice": "balanced"},
}
_FINE = {"weights": {"granularity": "channel", "range": "mse"}}
METHODS: dict[str, dict[str, Any]] = {
    "ptq": {},
    "bias_aware": _BALANCED,
    "bias_aware_calibration": _BALANCED,
    "mixed_precision": _SPARING,
    "qat": {"training": "qat"},
}
# there are few images, and the bound has to come to bear
_LONG: dict[str, Any] = {"qat": Qat(epochs=20), "training": Training(batch_size=16)}
# what FairnessAwareQuantizer tries in this order, what trains last; all have about the same size
CANDIDATES: dict[str, dict[str, Any]] = {
    "bias-aware calibration": _BALANCED,
    "bias-aware calibration, ranges per channel": _BALANCED | _FINE,
    "the same, logits brought back to those of the original": (
        _BALANCED | _FINE | {"post": "match_reference"}
    ),
    "mixed precision for the worst-off group, ranges per channel": _SPARING | _FINE,
    "training with the quantizers in place, demographic parity constrained": {
        "training": "qat",
        "recipe": {"during": "qat", "loss": {"kind": "constrained", "excuse": False}},
    },
}


def apply_quantization(
    model: nn.Module,
    *,
    method: str = "PTQ_INT8",
    bit_width: int | None = None,
    calibration_data: Data | None = None,
    training_data: Data | None = None,
) -> nn.Module:
    """Quantize a network by one of the methods in the table above.

    Parameters
    ----------
    model
        A trained network; it is not changed.
    method
        Name of the method, with or without a width.
    bit_width
        Width of the weights, by default that in the name of the method, or 8.
    calibration_data
        Images for methods that need calibration.
    training_data
        Images for QAT.

    Returns
    -------
    nn.Module
        The quantized network, on the CPU.

    Examples
    --------
    >>> network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> len(apply_quantization(network, method="PTQ_INT4")[1].weight.unique()) <= 16 * 10
    True
    """
    name, width = _parse(method)
    if bit_width is not None and width not in (None, bit_width):
        raise MethodError(f"method {method!r} has {width} bits, but bit_width = {bit_width}")
    seen = None if calibration_data is None else samples(calibration_data, model, split="train")
    attributes = [] if seen is None else [a for a in seen.attributes if a != "label"]
    return api.quantize(
        model,
        method=_method(METHODS[name], attributes),
        bits=(width or 8) if bit_width is None else bit_width,
        calibration=seen,
        train=training_data,
    ).network


def compute_fairness_metrics(
    model: nn.Module, test_loader: Data, sensitive_attr: str = "label"
) -> dict[str, Any]:
    """Measure how a network treats the groups of an attribute.

    Returns
    -------
    dict
        ``demographic_parity``, ``equalized_odds``, ``equal_opportunity``, ``predictive_equality``
        (the largest gap between two groups, of the worst class; of two classes, class 1),
        ``disparate_impact`` (lowest over highest rate), ``recall_gap``, ``accuracy``, ``loss``,
        ``fvo``, ``worst_group_accuracy``, ``group_accuracy`` (a mapping), ``model_size_mb`` (10⁶
        bytes of the packed file), and ``note``: what is NaN or left out, and why.
    """
    test = samples(test_loader, model, split="test")
    (division,) = groupings(test.attributes, [sensitive_attr], Groups())
    labels, logits = test.labels.numpy(), api.outputs(model, test)
    answers = Answers(
        labels, logits.argmax(1)[None], division.codes, division.counted, logits.shape[1]
    )
    measured = {name: value[0] for name, value in catalogue.values(answers).items()}
    worst = int(worst_group(measured["accuracy"], division.counted).group)
    small = np.array(division.names)[~division.counted]
    parity = catalogue.find("demographic_parity_worst")
    notes = [parity.missing(answers) or answers.left_out]
    notes += [f"too small to be compared: {', '.join(small)}"] if len(small) else []
    return {
        **{
            metric.rule: float(measured[name])
            for name, metric in catalogue.CATALOGUE.items()
            if metric.of != "each group" and not name.endswith("_macro")
        },
        "accuracy": float(measured["overall"]),
        "loss": float(per_sample(logits, logits, labels)["loss"].mean()),
        "worst_group_accuracy": float(measured["worst_group"]),
        "worst_group": division.names[worst] if worst >= 0 else "no group is large enough",
        "group_accuracy": dict(zip(division.names, measured["accuracy"], strict=True)),
        "model_size_mb": api.packed_bytes(model) / MEGABYTE,
        "note": "; ".join(filter(None, notes)),
    }


@dataclass(frozen=True, repr=False)
class QuantizationComparison(api.Result):
    """A result with the methods that Beyond-Naive-Quantization describes."""

    note: str = ""

    def plot_comparison(self) -> Figure:
        """Draw the FVO of every method by width."""
        return self.plot("fvo_by_width")

    def save_to_csv(self, path: str | Path) -> None:
        """Write accuracy by group, FVO and worst group, with their intervals, as CSV."""
        self.to_csv(path)


def compare_quantization_methods(
    model: nn.Module,
    methods: Sequence[str],
    test_loader: Data,
    sensitive_attrs: Sequence[str],
    *,
    calibration_data: Data | None = None,
    training_data: Data | None = None,
) -> QuantizationComparison:
    """Compare the effect of methods on each group with that of plain PTQ at the same width.

    Methods that need images for which there are none get a fifth of ``test_loader``, which is then
    left out of the test; ``note`` says so.
    """
    test = samples(test_loader, model, split="test")
    parsed = dict.fromkeys((name, width or 8) for name, width in map(_parse, methods))
    grid = [api.Applied("ptq", Method(), bits) for bits in dict.fromkeys(b for _, b in parsed)]
    grid += [
        api.Applied(name, _method(METHODS[name], sensitive_attrs), bits)
        for name, bits in parsed
        if name != "ptq"
    ]
    note = ""
    trains = any(m.training.trains for _, m, _ in grid)
    looks = any(m.needs_calibration() for _, m, _ in grid)
    if training_data is None and (trains or (looks and calibration_data is None)):
        training_data, test = _split(test, 0.2)
        note = f"{len(training_data)} test images were used by the methods and left out of the test"
    inputs = api.material(model, calibration_data, training_data, example=test.images)
    bits = [width for name, _, width in grid if name == "ptq"]
    result = api.evaluate(model, grid, test, inputs, bits=bits, groups=sensitive_attrs)
    return QuantizationComparison(**vars(result), note=note)


class FairnessAwareQuantizer:
    """Search for a quantization whose demographic parity gap stays within a bound.

    Half of the images are used for calibration, the other half to measure the gap. The candidates
    are tried in order: first those that train nothing, then QAT whose loss constrains demographic
    parity (:class:`~quantskew.training.losses.DemographicParity`) on the calibration images, whose
    labels it learns from. The first that meets the bound is chosen; if none does, the one with the
    smallest gap is, with a warning. Choosing among five candidates makes the measured gap slightly
    optimistic, so measure it again on the test set.

    Parameters
    ----------
    bit_width
        Average width of the weights.
    max_dp_gap
        Largest allowed gap: the difference between two groups in the share of images predicted as a
        class, over all classes and attributes. It is the gap of the quantized network, not the
        increase over the original one.
    sensitive_attributes
        Attributes of the images. The gap is measured for each of them; the calibration set is
        balanced over all their combinations.

    Attributes
    ----------
    final_dp_gap
        Gap on images that were not used for calibration; NaN if it cannot be measured.
    baseline_dp_gap
        Gap of the original network on the same images.
    shortfall
        By how much the bound is exceeded: 0 if it is met, NaN if the gap cannot be measured.
    message
        The outcome in one sentence, with the number of images.
    chosen
        Name of the chosen candidate.
    """

    def __init__(
        self, bit_width: int = 8, max_dp_gap: float = 0.01, *, sensitive_attributes: Sequence[str]
    ) -> None:
        if not 0 <= max_dp_gap <= 1:
            raise MethodError(f"max_dp_gap: got {max_dp_gap}; a difference of shares is 0 to 1")
        self.bit_width = bit_width
        self.max_dp_gap = max_dp_gap
        self.sensitive_attributes = list(sensitive_attributes)
        self.final_dp_gap = self.baseline_dp_gap = self.shortfall = float("nan")
        self.message = "nothing has been quantized yet"
        self.chosen = ""

    def quantize(
        self, model: nn.Module, calibration_data: Data, fairness_constraint: bool = True
    ) -> nn.Module:
        """Quantize a network; without the constraint the first candidate is chosen.

        Warns
        -----
        UserWarning
            When the constraint is set but not met.
        """
        seen, held_out = _split(samples(calibration_data, model, split="train"), 0.5)
        self.baseline_dp_gap = self._gap(model, held_out)
        tried: dict[str, tuple[float, nn.Module]] = {}
        for name, parts in CANDIDATES.items():
            method = self._bounded(_method(parts, self.sensitive_attributes))
            used = seen if method.needs_calibration() else None
            network = api.quantize(
                model, method=method, bits=self.bit_width, calibration=used, train=seen, **_LONG
            ).network
            tried[name] = (self._gap(network, held_out), network)
            # a gap that cannot be measured is not known of any of them
            if not fairness_constraint or not tried[name][0] > self.max_dp_gap:
                break
        self.chosen = min(tried, key=lambda name: np.nan_to_num(tried[name][0], nan=np.inf))
        self.final_dp_gap, network = tried[self.chosen]
        self.shortfall = float(np.maximum(self.final_dp_gap - self.max_dp_gap, 0))
        self.message = self._outcome(len(held_out))
        if fairness_constraint and self.shortfall != 0:
            warnings.warn(self.message, stacklevel=2)
        return network

    def _bounded(self, method: Method) -> Method:
        """Give a constrained loss the bound: each rate within half of it from that of all."""
        if not isinstance(method.recipe.loss, Constrained):
            return method
        loss = Constrained(
            by="*".join(self.sensitive_attributes), constraint=DemographicParity(),
            tolerance=min(1.0, self.max_dp_gap / 2), step_size=0.1, excuse=False,
        )  # fmt: skip
        recipe = method.recipe.model_copy(update={"loss": loss})
        return method.model_copy(update={"recipe": recipe})

    def _gap(self, model: nn.Module, held_out: Samples) -> float:
        gaps = [
            compute_fairness_metrics(model, held_out, name)["demographic_parity"]
            for name in self.sensitive_attributes
        ]
        return float(np.max(gaps))  # NaN if one of them is NaN

    def _outcome(self, n: int) -> str:
        if np.isnan(self.shortfall):
            return (
                f"the bound on the demographic parity gap is not known to be met: on {n} images "
                f"one of {', '.join(self.sensitive_attributes)} has fewer than two groups of "
                f"{Groups().minimum} images or more, or is the class itself"
            )
        measured = (
            f"the demographic parity gap on {n} images is {self.final_dp_gap:.4f} "
            f"(fp32: {self.baseline_dp_gap:.4f})"
        )
        if self.shortfall:
            return (
                f"the bound is NOT met: {measured}, {self.shortfall:.4f} above max_dp_gap = "
                f"{self.max_dp_gap:g}; {self.chosen} came closest"
            )
        return f"the bound is met: {measured}, max_dp_gap = {self.max_dp_gap:g}; {self.chosen}"


def _parse(method: str) -> tuple[str, int | None]:
    name, named, width = method.lower().partition("_int")
    if named and width not in map(str, range(2, 9)):
        raise MethodError(f"method {method!r}: weights have 2 to 8 bits, _INT2 to _INT8")
    if name not in METHODS:
        raise MethodError(
            f"no method {method!r}; there are {', '.join(METHODS)}, each optionally followed by "
            f"_INT2 to _INT8{close_names(name, METHODS)}"
        )
    return name, int(width) if width else None


def _method(parts: dict[str, Any], attributes: Sequence[str]) -> Method:
    if "calibration" in parts:
        by = "*".join(attributes) or "label"
        parts = parts | {"calibration": parts["calibration"] | {"by": by}}
    return api.named(parts)


def _split(data: Samples, share: float) -> tuple[Samples, Samples]:
    """Split samples at random into a share of them and the rest."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(api.SEED)).numpy()
    at = round(share * len(data))
    return data.at(np.sort(order[:at])), data.at(np.sort(order[at:]))
