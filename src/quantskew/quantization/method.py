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
==================  ================================================================================

A kind of your own is one class: a subclass of one of these families, which does the work. A
combination of parts needs no code at all.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, model_validator

from quantskew.quantization.activations import Activations, FloatActivations
from quantskew.quantization.calibration import Calibration
from quantskew.quantization.fitting import AsIs, Fitting, MethodError, Oscillations, PostTraining
from quantskew.quantization.policies import Policy, Uniform
from quantskew.quantization.weights import IntegerWeights, Weights
from quantskew.sections import Code, Section, Widths
from quantskew.training.recipe import Recipe

IN_QAT = Recipe(during="qat")


class Method(Section):
    """A composition of orthogonal parts, named in ``methods:`` or ``mitigations:``.

    ``bits`` keeps a costly method to some of the study's widths. ``function`` is the user's own,
    ``module:name``; see :func:`quantskew.methods.own`. ``about`` says in a line what the method is,
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
        post_training = not self.training.trains and self.weights.needs_calibration()
        return post_training or self.activations.needs_images or self.is_mixed()

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
            if trains or self.activations != FloatActivations() or self.needs_calibration():
                raise ValueError(
                    f"format: {self.weights.kind} goes with no other part but a recipe"
                )
        elif trains:
            self._fits_qat(self.weights)
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
