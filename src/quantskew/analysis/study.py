"""What is compared, and how sure an answer has to be (``statistics:``, ``targets:``)."""

import copy
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from quantskew.data.groups import Groups
from quantskew.sections import Count, Draws, Fraction, Section, Seed

_PLAIN = {"sampling": "as_is", "augmentation": "none", "loss": "cross_entropy"}


class Statistics(Section):
    """How sure we are (``statistics:``); without ``parity`` no rates are compared by class."""

    alpha: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    margin: Fraction = 0.02
    draws: Draws = 2000
    seed: Seed = 0
    parity: bool = True


class Targets(Section):
    """What a variant must meet to be recommended (``targets:``); null asks nothing.

    ``worst_group_loss`` is the accuracy that any group may lose against fp32, as certified;
    ``fvo`` bounds the upper limit of the interval of FVO; ``bytes`` the file.
    """

    bytes: Count | None = None
    worst_group_loss: Fraction = 0.02
    fvo: Fraction | None = None


class Report(Section):
    """What the report shows (``report:``): ``pictures`` of the samples that flipped, or their ids.

    Do not show pictures of people who did not agree to it.
    """

    pictures: bool = False


class Study(Section):
    """A study as those see it who judge its answers, without any code that makes a network.

    Attributes
    ----------
    datasets, models, bits, seeds
        What is compared.
    methods, mitigations
        The parts of each method by its name, as plain values under the keys of ``params.yaml``,
        with the defaults filled in: ``methods["ptq"]["weights"]["granularity"]``. A part that is
        one of several kinds is a mapping with the key ``kind``. Beside them ``images`` and
        ``labels`` count the calibration images, and those whose label must be known.
    reference
        Name of the method that all others are compared with, width by width; a name that is not
        among ``methods`` compares them with the fp32 network alone.
    groups, statistics, targets
        Sections of ``params.yaml``.
    answers
        Data set of each of the ``models`` of which there are tables of answers and no networks.
    """

    datasets: tuple[str, ...]
    models: tuple[str, ...]
    bits: tuple[int, ...]
    seeds: tuple[int, ...]
    methods: dict[str, dict[str, Any]]
    reference: str
    mitigations: dict[str, dict[str, Any]] = {}
    groups: Groups = Groups()
    statistics: Statistics = Statistics()
    targets: Targets = Targets()
    answers: dict[str, str] = {}

    def all_methods(self) -> dict[str, dict[str, Any]]:
        """Methods of both stages by name."""
        return {**self.methods, **self.mitigations}

    def retrained(self, name: str) -> bool:
        """Whether networks of a method come from a training of their own: a recipe, or QAT."""
        method = self.all_methods().get(name)
        if method is None:  # the baseline
            return False
        parts = [(kind(method, "recipe", name), plain) for name, plain in _PLAIN.items()]
        parts.append((kind(method, "training"), "none"))
        return any(chosen not in ("", plain) for chosen, plain in parts)

    def free_remedies(self) -> list[str]:
        """Names of the methods that correct a network without training it: the bar for the others.

        They have corrections (``post``) or a rounding that weighs groups (``weighting``), unless
        that is a control whose groups are dealt at random, and neither a recipe nor QAT.
        """

        def spares(method: Mapping[str, Any]) -> bool:
            weighting = "weights", "rounding", "weighting"
            weighs = kind(method, *weighting) not in ("", "even")
            return bool(method.get("post")) or (weighs and not part(method, *weighting, "shuffle"))

        return [n for n, m in self.all_methods().items() if spares(m) and not self.retrained(n)]

    def controls_of(self, name: str) -> list[str]:
        """Names of the controls of a method: alike, but for widths or groups dealt at random."""
        methods = {other: acting(method) for other, method in self.all_methods().items()}
        controls = []
        for path in (("policy", "unit"), ("weights", "rounding", "weighting")):
            control = copy.deepcopy(methods.get(name, {}))
            dealt = part(control, *path)
            if part(dealt, "shuffle") is False:  # else a control itself, or nothing to deal
                dealt["shuffle"] = True
                controls.append(control)
        return [other for other, method in methods.items() if method in controls]

    def unit_of(self, dataset: str) -> str | None:
        """Column of the samples that names who each comes from; None where each is its own."""
        return self.groups.unit.get(dataset)

    def counted_in(self, dataset: str, samples: str = "images") -> str:
        """What makes a group of a data set large enough, in the plural."""
        unit = self.unit_of(dataset)
        return f"{unit} units" if unit else samples

    def groups_of(self, dataset: str) -> tuple[str, ...]:
        """Groupings of a data set, the first being the one that summaries show; else the label."""
        return self.groups.by.get(dataset) or ("label",)


def acting(method: Mapping[str, Any]) -> dict[str, Any]:
    """Parts of a method that act on a network: neither its description nor where it is run."""
    return {name: part for name, part in method.items() if name not in ("about", "bits")}


def part(method: Any, *path: str) -> Any:
    """What a method says of one of its parts; None where it says nothing of it.

    Examples
    --------
    >>> part({"weights": {"rounding": {"kind": "gptq"}}}, "weights", "rounding", "kind")
    'gptq'
    """
    for key in path:
        method = method.get(key) if isinstance(method, Mapping) else None
    return method


def kind(method: Mapping[str, Any], *path: str) -> str:
    """Name of the kind of a method's part; empty where the method says nothing of it.

    Examples
    --------
    >>> kind({"recipe": {"loss": {"kind": "weighted"}}}, "recipe", "loss")
    'weighted'
    >>> kind({"training": "qat"}, "training"), kind({}, "training")
    ('qat', '')
    """
    chosen = part(method, *path)
    name = chosen.get("kind") if isinstance(chosen, Mapping) else chosen
    return "" if name is None else str(name)
