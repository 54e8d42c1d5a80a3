"""What is evaluated, and around which networks the loss is surveyed (``curvature:``)."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from quantskew.engine.cells import Cell
from quantskew.impact import MAX_PRODUCTS
from quantskew.layout import Stored
from quantskew.names import Variant
from quantskew.sections import Names, Section, Width
from quantskew.variants import subject_of

if TYPE_CHECKING:
    from quantskew.params import Params


class Curvature(Section):
    """Which networks' loss surfaces are measured, and how closely (``curvature:``).

    Per-sample gradients, curvature and the predicted damage are taken over ``samples`` test samples
    of each group; ``probes`` is the number of random vectors behind each trace, 0 for no trace.
    ``layers`` also quantizes every layer alone, as post-training methods among ``methods`` do, at
    the narrowest of ``bits``. With ``seeds: 0`` nothing is surveyed. A network in half precision is
    surveyed in float32, with its rounded weights.
    """

    methods: Names = ("fp32",)
    bits: tuple[Width, ...] | None = None  # those of the study's widths; all unless given
    seeds: Annotated[int, Field(ge=0)] = 1  # how many of the study's, from the first
    samples: Annotated[int, Field(ge=2)] = 25
    probes: Annotated[int, Field(ge=0)] = 0
    errors: bool = False
    layers: bool = False

    def price(self, networks: int, groups: int) -> str:
        """Say in a sentence what surveying some networks costs, before it is paid."""
        each = MAX_PRODUCTS + 3 * self.errors + self.probes
        return (
            f"curvature of {networks} networks in {groups} groups: a few Hessian products of "
            f"{self.samples} samples for each, at most {networks * groups * each:,} in all"
        )


class Plan(NamedTuple):
    """Cells of a data set and a model by the network that each is about."""

    answers: dict[Variant, Cell]
    surveys: dict[Variant, Cell]  # of the loss around a network
    layers: dict[Variant, Cell]  # of the damage that each layer does alone
    surveyed: dict[Variant, Variant]  # each with the fp32 network that it was made from


def plan(study: "Params", variants: Mapping[Variant, Stored]) -> Plan:
    """Plan the cells that evaluate the stored networks of a data set and a model."""
    settings, methods = study.curvature, study.all_methods()
    surveyed = _surveyed(study, variants)

    def cell(name: str, function: str, variant: Variant, **further: Any) -> Cell:
        subject = subject_of(study, variant, variants[variant].file)
        return Cell(name, function, subject=subject, **further)

    def groups(variant: Variant) -> dict[str, Any]:
        attribute = study.groups_of(variant.dataset)[0]
        needed = study.groups.needed_by(attribute)
        return {"attribute": attribute, "groups": needed, "size": settings.samples}

    folds = methods[study.reference].integer_weights().fold_bn
    return Plan(
        answers={
            variant: cell(
                variant.stem, "quantskew.evaluation.run:evaluate", variant,
                base=variants[stored.base].file, folds=folds,
            )
            for variant, stored in variants.items()
        },
        surveys={
            variant: cell(
                f"loss around {variant.stem}", "quantskew.evaluation.loss_surface:survey", variant,
                base=None if variant == base else variants[base].file,
                probes=settings.probes, errors=settings.errors, **groups(variant),
            )
            for variant, base in surveyed.items()
        },
        layers={
            variant: cell(
                f"each layer of {variant.stem} alone", "quantskew.evaluation.layer_damage:survey",
                surveyed[variant], bits=variant.bits, weights=methods[variant.method].weights,
                **groups(variant),
            )
            for variant in _narrowest(study, surveyed)
        },
        surveyed=surveyed,
    )  # fmt: skip


def _surveyed(study: "Params", variants: Mapping[Variant, Stored]) -> dict[Variant, Variant]:
    settings = study.curvature
    seeds = study.seeds[: settings.seeds]
    # an experiment with none of these widths is surveyed at its own
    kept = {*study.bits} & {*(settings.bits or ())} or {*study.bits}
    left_out = {*study.bits} - kept
    made_from = {
        variant: stored.base
        for variant, stored in variants.items()
        if variant.method in settings.methods
        and variant.seed in seeds
        and variant.bits not in left_out
    }
    return made_from | {base: base for base in made_from.values()}


def _narrowest(study: "Params", surveyed: Mapping[Variant, Variant]) -> list[Variant]:
    """The narrowest surveyed variant of each post-training method and seed."""
    methods = study.all_methods()
    narrowest: dict[tuple[int, str], Variant] = {}
    for variant, base in surveyed.items():
        rounds = variant != base and not methods[variant.method].training.trains
        if study.curvature.layers and rounds and variant.bits <= 8:
            key = variant.seed, variant.method
            narrowest[key] = min(variant, narrowest.get(key, variant))
    return [*narrowest.values()]
