"""A method of quantization: a composition of parts (``methods:``, ``mitigations:``).

==================  ================================================================================
part of a method    where it lives
==================  ================================================================================
``recipe``          how the fp32 network under it is trained: :mod:`quantskew.training`
``function``        the user's own: :func:`quantskew.methods.own`
``training``        after training or QAT: :class:`quantskew.quantization.fitting.Fitting`
``oscillations``    in QAT: :class:`quantskew.quantization.fitting.Oscillations`
``weights``         :class:`quantskew.quantization.weights.Weights`
``activations``     :class:`quantskew.quantization.activations.Activations`
``calibration``     :class:`quantskew.quantization.calibration.Calibration`
``policy``          :class:`quantskew.quantization.policies.Policy`
``post``            corrections without training: :class:`quantskew.quantization.post.Post`
==================  ================================================================================

A kind of your own is a subclass of one of these families, which does the work. A combination of
parts needs no code at all.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, model_validator

from quantskew.data.groups import ByGroup
from quantskew.quantization.activations import Activations, FloatActivations
from quantskew.quantization.calibration import Calibration, RandomChoice
from quantskew.quantization.fitting import AsIs, Fitting, MethodError, Oscillations, PostTraining
from quantskew.quantization.objectives import Mean
from quantskew.quantization.policies import Policy, Uniform
from quantskew.quantization.post import BatchNorm, LogitAdjustment, Post
from quantskew.quantization.weighting import Even
from quantskew.quantization.weights import Float32, IntegerWeights, Weights
from quantskew.sections import Code, Section, Widths
from quantskew.training.recipe import Recipe

IN_QAT = Recipe(during="qat")


def _in_turn(given: Any) -> Any:
    return given if isinstance(given, list | tuple) else (given,)


class Method(Section):
    """A composition of orthogonal parts, named in ``methods:`` or ``mitigations:``.

    ``bits`` keeps a costly method to some of the study's widths. ``function`` is the user's own,
    ``module:name``; see :func:`quantskew.methods.own`. ``post`` is one correction of the quantized
    network or a list of them, which are done in turn. ``about`` says in a line what the method is,
    for readers of the report; nothing depends on it.
    """

    about: str = ""
    bits: Widths | None = None
    recipe: Recipe = Recipe()
    function: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    training: Fitting = PostTraining()
    oscillations: Oscillations = AsIs()
    weights: Weights = IntegerWeights()
    activations: Activations = FloatActivations()
    calibration: Calibration = Calibration()
    policy: Policy = Uniform()
    post: Annotated[tuple[Post, ...], BeforeValidator(_in_turn)] = ()

    def bits_of(self, study: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the study's widths that it is kept to; all where it names none of them."""
        return tuple(width for width in study if width in (self.bits or study)) or study

    def base_recipe(self) -> Recipe:
        """How the fp32 network under it is trained."""
        return Recipe() if self.recipe.during == "qat" else self.recipe

    def is_mixed(self) -> bool:
        """Whether the policy gives layers or channels widths of their own."""
        return not isinstance(self.policy, Uniform)

    def needs_calibration(self) -> bool:
        """Whether training images are looked at after training; if not, they cannot matter."""
        return self.quantizing_looks() or any(part.looks_at != "nothing" for part in self.post)

    def quantizing_looks(self) -> bool:
        """Whether training images are looked at before any correction (``post``)."""
        post_training = not self.training.trains and self.weights.needs_calibration()
        return post_training or self.activations.needs_images or self.is_mixed()

    def described(self) -> dict[str, Any]:
        """Return the parts as plain values, and what they look at, for those who judge.

        ``images`` counts the calibration images, and ``labels`` those whose label (or group) must
        be known.
        """
        weighting = getattr(getattr(self.weights, "rounding", None), "weighting", Even())
        objective = getattr(getattr(self.activations, "range", None), "objective", Mean())
        knows = (
            self.is_mixed()
            or weighting.by_group
            or objective.by_group
            or any(part.looks_at == "labels" for part in self.post)
            or not isinstance(self.calibration.choice, RandomChoice)
        )
        images = self.calibration.samples if self.needs_calibration() else 0
        return self.model_dump() | {"images": images, "labels": images if knows else 0}

    def integer_weights(self) -> IntegerWeights:
        """Return how weights become integers; an error where the format is another."""
        if not isinstance(self.weights, IntegerWeights):
            raise MethodError(f"weights of format: {self.weights.kind} have no integer codes")
        return self.weights

    def identity(self) -> dict[str, Any]:
        """Return the parts, and the code of an own function."""
        code = self.function and Code(self.function.partition(":")[0])
        parts = {name: part for name, part in super().identity().items() if name != "about"}
        return {**parts, "code": code}

    @model_validator(mode="after")
    def _parts_act(self) -> "Method":
        trains = self.training.trains
        if self.recipe.during == "qat" and (not trains or self.recipe == IN_QAT):
            raise ValueError("recipe.during: qat needs training: qat, and a recipe that acts in it")
        if self.oscillations != AsIs() and not trains:
            kind = self.oscillations.kind
            raise ValueError(f"oscillations: {kind} acts in QAT; give training: qat")
        if self.calibration != Calibration() and not self.needs_calibration():
            raise ValueError(
                "calibration changes nothing here: weights alone are quantized, from themselves; "
                "give activations: static, another rounding or a policy, or leave it out"
            )
        if not isinstance(self.weights, IntegerWeights):
            if trains or self.activations != FloatActivations() or self.quantizing_looks():
                raise ValueError(
                    f"format: {self.weights.kind} goes with no other part but a recipe or post"
                )
            if isinstance(self.weights, Float32) and (not self.post or self.recipe != Recipe()):
                raise ValueError(
                    "format: float32 is the trained network itself: give post, and no recipe"
                )
        elif trains:
            self._fits_qat(self.weights)
        return self

    @model_validator(mode="after")
    def _corrections_act(self) -> "Method":
        for part in self.post:
            unfolded = self.training.trains or not getattr(self.weights, "fold_bn", True)
            if isinstance(part, BatchNorm) and not unfolded:
                raise ValueError(
                    "post: batchnorm needs batch norms that were not folded; give weights: "
                    "{fold_bn: false} or training: qat (of folded ones, weights.bias_correction: "
                    "outputs restores the means)"
                )
            sampling = self.recipe.sampling
            equal = isinstance(sampling, ByGroup) and sampling.by == "label"
            if isinstance(part, LogitAdjustment) and equal:
                raise ValueError(
                    "post: logit_adjustment changes nothing here: recipe.sampling shows the "
                    "training equally many samples of every class; leave one of them out"
                )
        return self

    def _fits_qat(self, weights: IntegerWeights) -> None:
        """Refuse what QAT does not use: it folds no batch norms and learns its grids."""
        self.activations.check_learnable()
        if self.policy.splits_layers():
            raise ValueError("policy.unit: QAT gives all channels of a layer one width; take layer")
        costs = self.policy.rounds_weights  # it reads how weights are rounded
        after, rounded = ("training: none", False), ("training: none, or a policy of costs", costs)
        acts = {
            **dict.fromkeys(("rounding", "equalize", "quantize_biases", "quantize_norms"), after),
            **dict.fromkeys(("scheme", "range"), rounded),
            "bias_correction": rounded if weights.bias_correction.moves_weights else after,
            "fold_bn": ("training: none, or a policy", self.is_mixed()),
        }
        for name, (condition, met) in acts.items():
            if not met and getattr(weights, name) != type(weights).model_fields[name].default:
                raise ValueError(
                    f"weights.{name} acts with {condition} alone; give that, or leave it out"
                )


def recipe_owners(methods: Mapping[str, Method]) -> dict[Recipe, str]:
    """Recipes of fp32 networks with the name each network bears: of the first method with it."""
    owners = {Recipe(): "fp32"}
    for name, method in methods.items():
        owners.setdefault(method.base_recipe(), name)
    return owners
