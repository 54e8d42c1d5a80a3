"""What is done to a network after it was quantized, without training it (``post:``).

Corrections of the logits go into the bias of the last layer, or into one small layer behind it
(:mod:`quantskew.quantization.logit_maps`), and the files carry them.

They see the logits of a sample and not its group, so two samples of the same logits get the same
answer whatever their groups are. Where the groups are the classes, a bias raises the group that is
answered too seldom. Where groups and classes are unrelated, all that a correction can do is trade
classes: a group gains as far as it has more samples of the classes that are raised, or is unsure
about them more often, and no group is moved against another within a class and its logits.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from typing_extensions import override

from quantskew.quantization.fitting import MethodError
from quantskew.sections import Choice, NonNegative

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

    from quantskew.quantization.calibration import CalibrationSet
    from quantskew.quantization.logit_maps import Correction
    from quantskew.quantization.packing import Quantized
    from quantskew.training.losses import Floats

    Fitted = tuple[Correction, Mapping[str, Any]]

Aim = Literal["balanced", "worst_group"]
Looked = Literal["nothing", "images", "labels"]
STATIONARY = 1e-2
"""Largest slope, in nats by bias, that is left at the minimum of the largest loss."""
TAUS = np.linspace(0, 2, 41)
"""Strengths that logit adjustment chooses from."""


class PostMaterial(NamedTuple):
    """What a correction may look at beside the quantized network.

    ``reference`` is the network before it was quantized, not changed, ``seen`` the calibration
    images, where a part of the method looks at any, and ``held_out`` whether the network was not
    trained on them. ``frequencies`` counts the samples of each class in an epoch of the training,
    (C,), where they are known.
    """

    example: Tensor
    reference: nn.Module
    seen: CalibrationSet | None
    held_out: bool
    frequencies: Floats | None

    def images(self) -> CalibrationSet:
        """Return the calibration images, of a method that looks at some."""
        if self.seen is None:
            raise MethodError("post: looks at calibration images, and none are given")
        return self.seen


class Looks(NamedTuple):
    """What a network answers on calibration images, as arrays.

    ``logits`` is (N, C), ``labels`` (N,), ``groups`` (N,) from 0 on; below 0 is no group.
    """

    logits: Floats
    labels: np.ndarray
    groups: np.ndarray

    def of_groups(self, values: Floats) -> Floats:
        """Mean over the samples of each group, (groups, …)."""
        known = self.groups >= 0
        member = (self.groups[known, None] == np.unique(self.groups[known])).astype(float)
        means: Floats = np.tensordot(member / member.sum(0), values[known], axes=(0, 0))
        return means


class Post(Choice):
    """A correction of a quantized network (``post`` of a method); several are done in turn."""

    @property
    def looks_at(self) -> Looked:
        """What it looks at of the calibration images."""
        return "images"

    @abstractmethod
    def __call__(self, quantized: Quantized, material: PostMaterial) -> dict[str, Any]:
        """Correct the network, in place; no code of it changes.

        What was done is returned as plain values, for the notes in the file.
        """


class _OfLogits(Post):
    """A correction that is an affine map of the logits."""

    @override
    def __call__(self, quantized: Quantized, material: PostMaterial) -> dict[str, Any]:
        from quantskew.quantization.logit_maps import correct

        network, coded = quantized.network, quantized.codes().keys()
        correction, chosen = self.correction(network, material)
        where = correct(network, correction, material.example, coded=coded)
        return {"kind": self.kind, "in": where, "bias": correction.bias.tolist(), **chosen}

    @abstractmethod
    def correction(self, network: nn.Module, material: PostMaterial) -> Fitted:
        """Return the map, and what was chosen on the way."""

    def _look(self, network: nn.Module, material: PostMaterial) -> Looks:
        """Return what the network answers on calibration images, some of every class."""
        seen = _answers(network, material)
        absent = np.setdiff1d(np.arange(seen.logits.shape[1]), seen.labels[seen.groups >= 0])
        if len(absent):
            raise MethodError(
                f"post: {self.kind}: no calibration image of class {absent.tolist()}, so that it "
                "would be given up for the others; give calibration: {choice: balanced}, or more "
                "samples"
            )
        return seen


class LogitAdjustment(_OfLogits, kind="logit_adjustment"):
    """Subtract ``tau · log π`` from the logits (Menon et al. 2021, eq. 9).

    π are the frequencies of the classes in training, as the sampling of the recipe draws them; with
    ``tau`` 1 the answers are the best for the balanced error, as far as the network's probabilities
    are right. With ``tau: held_out`` it is that of 0, 0.05, … 2 with the highest accuracy, averaged
    over the classes, on calibration images that the network was not trained on; of equals the one
    nearest to 1. No image is looked at otherwise. A loss that weighs classes has done a part of
    this already, which is not known here.
    """

    tau: NonNegative | Literal["held_out"] = 1.0

    @property
    @override
    def looks_at(self) -> Looked:
        return "labels" if isinstance(self.tau, str) else "nothing"

    @override
    def correction(self, network: nn.Module, material: PostMaterial) -> Fitted:
        if material.frequencies is None:
            raise MethodError(
                "post: logit_adjustment needs the frequencies of the classes in training; give "
                "the training samples (train)"
            )
        if not material.frequencies.all():
            lacking = np.flatnonzero(material.frequencies == 0).tolist()
            raise MethodError(
                f"post: logit_adjustment: the training has no sample of class {lacking}, whose "
                "frequency has no logarithm"
            )
        prior = np.log(material.frequencies / material.frequencies.sum())
        tau = self.tau
        if isinstance(tau, str):
            if not material.held_out:
                raise MethodError(
                    "post: logit_adjustment with tau: held_out needs calibration images that the "
                    "network was not trained on; set training.held_out: 0.1 in a study, or give "
                    "calibration images beside train in Python"
                )
            tau = best_tau(self._look(network, material), prior)
        return _biased(-tau * prior), {"tau": tau}


class ClassBiases(_OfLogits, kind="class_biases"):
    """One bias a class, fitted on labelled calibration images.

    The cross-entropy L_g of each group (``calibration.by``) is a convex function of the biases. The
    ``objective`` is their mean over groups (``balanced``), or the largest of them
    (``worst_group``), which is minimised as t subject to ``L_g ≤ t`` for every group. Images that
    the network was trained on make it look surer than it is (``training.held_out``).
    """

    objective: Aim = "balanced"

    @property
    @override
    def looks_at(self) -> Looked:
        return "labels"

    @override
    def correction(self, network: nn.Module, material: PostMaterial) -> Fitted:
        return _biased(fitted_biases(self._look(network, material), self.objective)), {}


class MatchReference(_OfLogits, kind="match_reference"):
    """Bring the logits nearest to those before quantization, on images without labels.

    Least squares over the calibration images; ``map`` says what is fitted: one ``biases`` a class,
    which move each mean logit back to where it was, or an ``affine`` map, (C + 1)·C numbers, which
    takes more images than it has columns.
    """

    map: Literal["biases", "affine"] = "biases"

    @override
    def correction(self, network: nn.Module, material: PostMaterial) -> Fitted:
        import torch

        from quantskew import models
        from quantskew.quantization.logit_maps import Correction

        images = material.images().images
        ours = models.logits(network, images).double()
        theirs = models.logits(material.reference, images).double()
        if self.map == "biases":
            return Correction((theirs - ours).mean(0).float()), {"map": self.map}
        count, classes = ours.shape
        if count <= classes + 1:
            raise MethodError(
                f"post: match_reference with map: affine fits {classes + 1} numbers a class and "
                f"got {count} calibration images; give more, or map: biases"
            )
        ones = torch.ones(count, 1, dtype=torch.double)
        fitted = torch.linalg.lstsq(torch.hstack([ours, ones]), theirs).solution.float()
        return Correction(fitted[-1], fitted[:-1].T.contiguous()), {"map": self.map}


class BatchNorm(Post, kind="batchnorm"):
    """Take the statistics of the batch norms anew, on calibration images without labels.

    Quantized weights give other means and variances than those that the norms hold. It needs norms
    that were not folded: ``weights: {fold_bn: false}``, or QAT. Of folded ones
    ``bias_correction: outputs`` restores the means.
    """

    @override
    def __call__(self, quantized: Quantized, material: PostMaterial) -> dict[str, Any]:
        from torch.nn.modules.batchnorm import _BatchNorm

        from quantskew.quantization.qat import reestimate_batch_norm

        norms = [n for n, m in quantized.network.named_modules() if isinstance(m, _BatchNorm)]
        if not norms:
            raise MethodError("post: batchnorm: the network has no batch norm (left)")
        images = material.images().images
        if len(images) < 2:
            raise MethodError(
                "post: batchnorm takes variances over calibration images, and of one image there "
                "may be none; give calibration: {samples: 64}, or more"
            )
        reestimate_batch_norm(quantized.network, images)
        return {"kind": self.kind, "in": norms}


class Temperature(_OfLogits, kind="temperature"):
    """Divide the logits by T, which minimises the cross-entropy of labelled calibration images.

    Answers stay what they are, and only how sure they are changes (Guo et al. 2017). T lies between
    1/20 and 20.
    """

    @property
    @override
    def looks_at(self) -> Looked:
        return "labels"

    @override
    def correction(self, network: nn.Module, material: PostMaterial) -> Fitted:
        import torch

        from quantskew.quantization.logit_maps import Correction

        temperature = best_temperature(_answers(network, material))
        bias = torch.zeros(_classes(network, material))
        return Correction(bias, torch.tensor([1 / temperature])), {"temperature": temperature}


class Threshold(_OfLogits, kind="threshold"):
    """Answer class 1 of two from another probability than a half on.

    ``at`` is that probability. Where it is not given, it is the one at which the calibration images
    are answered best: the ``objective`` is the accuracy of the groups (``calibration.by``) on
    average (``balanced``), or of the worst of them (``worst_group``).
    """

    at: Annotated[float, Field(gt=0, lt=1)] | None = None
    objective: Aim = "balanced"

    @property
    @override
    def looks_at(self) -> Looked:
        return "labels" if self.at is None else "nothing"

    @override
    def correction(self, network: nn.Module, material: PostMaterial) -> Fitted:
        classes = _classes(network, material)
        if classes != 2:
            raise MethodError(f"post: threshold is for two classes, and the network has {classes}")
        at = self.at
        if at is None:
            at = best_threshold(self._look(network, material), self.objective)
        return _biased(np.array([0.0, np.log((1 - at) / at)])), {"at": at}


def _biased(bias: Floats) -> Correction:
    import torch

    from quantskew.quantization.logit_maps import Correction

    return Correction(torch.from_numpy(bias).float())


def _classes(network: nn.Module, material: PostMaterial) -> int:
    from quantskew import models

    return models.logits(network, material.example[:1]).shape[1]


def _answers(network: nn.Module, material: PostMaterial) -> Looks:
    from quantskew import models

    seen = material.images()
    logits = models.logits(network, seen.images).double().numpy()
    return Looks(logits, seen.labels.numpy(), seen.groups.numpy())


def best_tau(seen: Looks, prior: Floats) -> float:
    """Return the strength of :class:`LogitAdjustment` of the highest accuracy over classes.

    ``seen`` is of images that the network was not trained on; ``prior`` holds the logarithms of the
    frequencies of the classes, (C,).
    """
    by_class = seen._replace(groups=seen.labels)
    accuracy = [
        by_class.of_groups((seen.logits - tau * prior).argmax(1) == seen.labels).mean()
        for tau in TAUS
    ]
    best = TAUS[np.isclose(accuracy, max(accuracy))]
    return float(best[np.abs(best - 1).argmin()])


def fitted_biases(seen: Looks, objective: Aim) -> Floats:
    """Return the biases of :class:`ClassBiases`, (C,), whose mean is 0.

    Examples
    --------
    Of two classes with the same logits, the biases follow how often each is the right one.

    >>> seen = Looks(np.zeros((4, 2)), np.array([0, 0, 0, 1]), np.zeros(4, int))
    >>> biases = fitted_biases(seen, "balanced")
    >>> round(float(biases[0] - biases[1]), 3)  # the logarithm of 3
    1.099
    """
    from scipy.optimize import minimize, nnls  # 20 MB, which few need
    from scipy.special import log_softmax, softmax

    classes = seen.logits.shape[1]
    right = np.eye(classes)[seen.labels]

    def losses(biases: Floats) -> Floats:
        likelihood = log_softmax(seen.logits + biases, axis=1)
        return -seen.of_groups((likelihood * right).sum(1))

    def slopes(biases: Floats) -> Floats:
        return seen.of_groups(softmax(seen.logits + biases, axis=1) - right)

    start = np.zeros(classes)
    balanced = minimize(
        lambda b: losses(b).mean(), start, jac=lambda b: slopes(b).mean(0), method="BFGS",
        options={"gtol": 1e-8},
    ).x  # fmt: skip
    if objective == "worst_group":
        constraint = {
            "type": "ineq",
            "fun": lambda v: v[-1] - losses(v[:-1]),
            "jac": lambda v: np.hstack([-slopes(v[:-1]), np.ones((len(losses(start)), 1))]),
        }
        found = minimize(
            lambda v: v[-1], np.append(balanced, losses(balanced).max()),
            jac=lambda v: np.append(start, 1.0), method="SLSQP", constraints=constraint,
            options={"ftol": 1e-12, "maxiter": 1000},
        )  # fmt: skip
        balanced = found.x[:-1]
        # SLSQP may stop where it can tell no descent any more, so the minimum is tested for itself:
        # there the slopes of the worst groups cancel under some weights
        worst = losses(balanced) >= found.x[-1] * (1 - 1e-3)
        left = nnls(
            np.vstack([slopes(balanced)[worst].T, np.ones(worst.sum())]), np.append(start, 1.0)
        )[1]
        if not left < STATIONARY:
            raise MethodError(
                f"post: class_biases: the search for the best worst group ended {left:.2g} off a "
                f"minimum ({found.message}); take objective: balanced, or more calibration images"
            )
    return np.asarray(balanced - balanced.mean())


def best_temperature(seen: Looks) -> float:
    """Return the temperature of least cross-entropy; see :class:`Temperature`."""
    from scipy.optimize import minimize_scalar  # 20 MB, which few need
    from scipy.special import log_softmax

    rows = np.arange(len(seen.labels))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(seen.logits / np.exp(log_temperature), axis=1)
        return -float(scaled[rows, seen.labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(-np.log(20), np.log(20))).x))


def best_threshold(seen: Looks, objective: Aim) -> float:
    """Return the probability of class 1 from which it is answered best; see :class:`Threshold`.

    Every threshold that separates two of the samples is tried; of equals the one nearest to a half
    is taken.
    """
    score = seen.logits[:, 1] - seen.logits[:, 0]
    sorted_scores = np.unique(score)
    middle = (sorted_scores[1:] + sorted_scores[:-1]) / 2
    cuts = np.concatenate([[0.0], middle, [sorted_scores[0] - 1, sorted_scores[-1] + 1]])
    right = (score[:, None] > cuts) == (seen.labels[:, None] == 1)
    accuracy = seen.of_groups(right)
    judged = {"balanced": accuracy.mean(0), "worst_group": accuracy.min(0)}[objective]
    best = cuts[np.isclose(judged, judged.max())]
    return float(1 / (1 + np.exp(-best[np.abs(best).argmin()])))
