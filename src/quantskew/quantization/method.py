"""A method of quantization: a composition of parts (``methods:``, ``mitigations:``)."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from quantskew.engine.fingerprint import Code
from quantskew.quantization.settings import Activations, Calibration, Policy, Weights
from quantskew.sections import Section, Widths
from quantskew.training.recipe import Recipe
from quantskew.training.settings import refuse_idle

IN_QAT = Recipe(during="qat")


class Method(Section):
    """A composition of orthogonal parts, named in ``methods:`` or ``mitigations:``.

    ``bits`` keeps a costly method to some of the study's widths. ``function`` is the user's own,
    ``module:name``; see :func:`quantskew.methods.own`.
    """

    bits: Widths | None = None
    recipe: Recipe = Recipe()
    function: Annotated[str, Field(pattern=r"^\w+(\.\w+)*:\w+$")] | None = None
    training: Literal["none", "qat"] = "none"
    oscillations: Literal["as_is", "dampen", "freeze"] = "as_is"
    weights: Weights = Weights()
    activations: Activations = Activations()
    calibration: Calibration = Calibration()
    policy: Policy = Policy()

    def bits_of(self, study: tuple[int, ...]) -> tuple[int, ...]:
        """Those of the study's widths that it is kept to; all where it names none of them."""
        return tuple(width for width in study if width in (self.bits or study)) or study

    def base_recipe(self) -> Recipe:
        """How the fp32 network under it is trained."""
        return Recipe() if self.recipe.during == "qat" else self.recipe

    def needs_calibration(self) -> bool:
        """Whether training images are looked at after training; if not, they cannot matter."""
        post_training = self.training == "none" and self.weights.needs_calibration()
        return post_training or self.activations.mode == "static" or self.policy.by != "uniform"

    def identity(self) -> dict[str, Any]:
        """Return the parts, and the code of an own function."""
        code = self.function and Code(self.function.partition(":")[0])
        return {**super().identity(), "code": code}

    @model_validator(mode="after")
    def _parts_act(self) -> "Method":
        if self.recipe.during == "qat" and (self.training != "qat" or self.recipe == IN_QAT):
            raise ValueError("recipe.during: qat needs training: qat, and a recipe that acts in it")
        if self.oscillations != "as_is" and self.training != "qat":
            raise ValueError(f"oscillations: {self.oscillations} acts in QAT; give training: qat")
        if self.calibration != Calibration() and not self.needs_calibration():
            raise ValueError(
                "calibration changes nothing here: weights alone are quantized, from themselves; "
                "give activations: {mode: static}, another rounding or a policy, or leave it out"
            )
        if self.training == "qat":
            self._fits_qat()
        others = self.training != "none" or self.activations.mode != "none"
        others = others or self.needs_calibration()
        if self.weights.format != "integer" and others:
            raise ValueError(f"format: {self.weights.format} goes with no other part but a recipe")
        return self

    def _fits_qat(self) -> None:
        if self.activations.mode == "dynamic" or self.activations.scheme != "asymmetric":
            raise ValueError("QAT learns activations of mode: static, scheme: asymmetric")
        # weights are not folded and their grids learned, but for the costs of a policy
        costs = self.policy.by in ("hawq", "measured", "learned")
        rounded = ("training: none, or a policy of costs", costs)
        after = ("training: none", False)
        names = ("rounding", "equalize", "quantize_biases", "quantize_norms", "bias_correction")
        idle = {
            **dict.fromkeys(names, after),
            **dict.fromkeys(("scheme", "range", "percentile"), rounded),
            "fold_bn": ("training: none, or a policy", self.policy.by != "uniform"),
        }
        if self.weights.bias_correction == "weights":
            idle["bias_correction"] = rounded
        refuse_idle(self.weights, idle, "weights.")
        refuse_idle(self.policy, {"unit": after}, "policy.")


def recipe_owners(methods: Mapping[str, Method]) -> dict[Recipe, str]:
    """Recipes of fp32 networks with the name each network bears: of the first method with it."""
    owners = {Recipe(): "fp32"}
    for name, method in methods.items():
        owners.setdefault(method.base_recipe(), name)
    return owners
