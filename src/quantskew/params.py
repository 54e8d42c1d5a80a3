"""The typed shape of ``params.yaml``: a wrong value is refused before any work is done.

Every section is a frozen pydantic model. :func:`load` reads the file and returns one
:class:`Params`; what does not fit is reported all at once, each with its key, what was given and
what is legal. YAML reads ``1e-06`` as a string (it wants ``1.0e-06``), so numbers given as strings
are accepted where a number is meant.
"""

import importlib
import re
import sys
from collections import Counter
from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, field_validator, model_validator

from quantskew.analysis.study import Report, Statistics, Study, Targets
from quantskew.answers.given import Given
from quantskew.architecture import Architecture
from quantskew.data.groups import Groups
from quantskew.data.source import Source
from quantskew.deployment.settings import Deploy
from quantskew.engine.compute import Compute
from quantskew.errors import close_names
from quantskew.evaluation.plan import Curvature
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE
from quantskew.quantization.fitting import Qat
from quantskew.quantization.method import Method, recipe_owners
from quantskew.sections import ParamsError, Section, Seeds, Widths, as_list, checked, read
from quantskew.training.recipe import Recipe
from quantskew.training.training import Training

Listed = Annotated[tuple[str, ...], Field(min_length=1)]
"""DVC makes a stage of each of these names, for which it needs a list."""
Modules = Annotated[
    tuple[Annotated[str, Field(pattern=r"^\w+(\.\w+)*$")], ...], BeforeValidator(as_list)
]
"""The user's own, whose kinds may be named in other sections."""
_JUDGED = (
    "datasets", "models", "bits", "seeds", "reference", "groups", "statistics", "targets",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class Params(Section):
    """All of ``params.yaml``."""

    datasets: Listed
    models: tuple[str, ...]
    bits: Widths
    seeds: Seeds
    reference: str = "ptq"
    extensions: Modules = ()
    downloads: str = "data/downloads"
    sources: dict[str, Source | None] = {}
    architectures: dict[str, Architecture] = {}
    training: Training = Training()
    qat: Qat = Qat()
    answers: dict[str, Given] = {}
    methods: dict[str, Method]
    mitigations: dict[str, Method] = {}
    groups: Groups = Groups()
    curvature: Curvature = Curvature()
    statistics: Statistics = Statistics()
    targets: Targets = Targets()
    deploy: Deploy = Deploy()
    report: Report = Report()
    compute: Compute = Compute()

    @model_validator(mode="before")
    @classmethod
    def _extend(cls, given: Any) -> Any:
        """Import the user's own modules, before a section may name what they define."""
        named = as_list(given.get("extensions", ())) if isinstance(given, Mapping) else ()
        for module in named if isinstance(named, list | tuple) else ():
            extend(module)
        return given

    @field_validator("datasets", "models", "bits", "seeds", "extensions")
    @classmethod
    def _no_repeats(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = sorted(str(value) for value, times in Counter(values).items() if times > 1)
        if repeated:
            raise ValueError(f"{', '.join(repeated)} is given more than once")
        return values

    @model_validator(mode="after")
    def _names_fit_together(self) -> "Params":
        for kind in (
            "datasets", "models", "answers", "methods", "mitigations", "deploy.calibrations"
        ):  # fmt: skip
            for name in attrgetter(kind)(self):
                if not _NAME.fullmatch(name):
                    raise ValueError(
                        f"{kind}: {name!r} becomes a file name; use letters, digits, '_' and '-'"
                    )
                if kind in ("models", "answers") and name == WHOLE:
                    raise ValueError(f"{kind}: {name!r} is all of the study in tables; rename it")
        self._answers_have_a_place()
        if both := sorted({*self.methods} & {*self.mitigations}):
            raise ValueError(f"{', '.join(both)} stands in methods and in mitigations; rename one")
        self._reference_is_plain()
        known = (BASELINE, *self.all_methods())
        if BASELINE in known[1:]:
            raise ValueError("fp32 is the name of the networks before any method; rename yours")
        files = {name for network in self.deploy.networks for name in self.deploy.files_of(network)}
        if both := sorted(files & {*known}):
            raise ValueError(
                f"{', '.join(both)} stands in methods, and is the name of a file that ships "
                "(deploy.calibrations, deploy.four_bits); rename one"
            )
        shipped = [
            *recipe_owners(self.mitigations).values(),
            *(name for name, m in self.mitigations.items() if m.weights.own_bits == FULL_PRECISION),
        ]
        for key, given, legal, what in (
            ("curvature.methods", self.curvature.methods, known, "method"),
            ("deploy.networks", self.deploy.networks, shipped, "fp32 network"),
        ):
            for name in given:
                if name not in legal:
                    raise ValueError(
                        f"{key}: {name!r} is no {what}; there are {', '.join(legal)}"
                        f"{close_names(name, legal)}"
                    )
        for name, method in self.all_methods().items():
            chosen = any(getattr(part, "tau", None) == "held_out" for part in method.post)
            if chosen and not self.training.held_out:
                raise ValueError(
                    f"{name}: post: tau: held_out needs training samples that no network is "
                    "trained on; set training.held_out, such as 0.1, or give tau a number"
                )
            bits, narrowest = min(method.bits_of(self.bits)), method.policy.narrowest()
            if narrowest > bits:
                raise ValueError(
                    f"{name}: policy: the narrowest of its choices is {narrowest} bits, and the "
                    f"method runs at {bits}; add a narrower choice, or give the method other bits"
                )
        missing = [name for name in self.datasets if name not in self.sources]
        if missing:
            raise ValueError(
                f"datasets: {', '.join(missing)} has no entry in sources; "
                f"there are {', '.join(self.sources) or 'none'}"
                f"{close_names(missing[0], self.sources)}"
            )
        return self

    def _answers_have_a_place(self) -> None:
        if not self.models and not self.answers:
            raise ValueError("models: none is given, nor tables of answers; nothing can be judged")
        for name, given in self.answers.items():
            if name in self.models:
                raise ValueError(f"answers: {name} is a model, too; rename the entry")
            if given.dataset not in self.datasets:
                raise ValueError(
                    f"answers.{name}.dataset: {given.dataset!r} is none of the datasets; there are "
                    f"{', '.join(self.datasets)}{close_names(given.dataset, self.datasets)}"
                )
        answered = {given.dataset for given in self.answers.values()}
        for dataset in self.datasets:
            known = self.sources.get(dataset)
            if known is not None and known.reader == "labels" and self.models:
                raise ValueError(
                    f"models: {dataset} has no images (reader: labels), so no network can be "
                    "trained on it; give models: [], or leave the data set out"
                )
            if not self.models and dataset not in answered:
                raise ValueError(f"datasets: {dataset} has neither models nor tables of answers")

    def _reference_is_plain(self) -> None:
        if self.reference not in self.methods:
            raise ValueError(
                f"reference: {self.reference!r} is not among the methods; there are "
                f"{', '.join(self.methods)}{close_names(self.reference, self.methods)}"
            )
        method = self.methods[self.reference]
        trained = method.recipe != Recipe() or method.training.trains
        if trained or method.function is not None or method.post:
            raise ValueError(
                f"reference: {self.reference} must be a post-training quantization without a "
                "recipe, a function and post, or remedies are compared with a remedy"
            )
        if method.weights.own_bits is not None or method.bits is not None:
            raise ValueError(
                f"reference: {self.reference} must have integer weights at every width of bits"
            )

    @model_validator(mode="after")
    def _checkpoints_are_not_retrained(self) -> "Params":
        for model in self.models:
            if model not in self.architectures or self.architectures[model].checkpoint is None:
                continue
            where = f"architectures.{model}.checkpoint"
            methods = self.all_methods().items()
            retrain = [name for name, method in methods if method.base_recipe() != Recipe()]
            if retrain:
                raise ValueError(
                    f"{where}: nothing is trained there, and these have a recipe for the fp32 "
                    f"network: {', '.join(retrain)}; leave out the methods or the checkpoint, or "
                    "give the methods training: qat and recipe.during: qat"
                )
            for name, method in methods:
                recipe = method.recipe
                if recipe.loss.needs_history:
                    raise ValueError(
                        f"{where}: no training tells how hard each class is, which the weights of "
                        f"loss: {recipe.loss.kind} follow; give {name} recipe.loss.class_weights"
                    )
        return self

    def all_methods(self) -> dict[str, Method]:
        """Methods of both stages by name."""
        return {**self.methods, **self.mitigations}

    def groups_of(self, dataset: str) -> tuple[str, ...]:
        """Groupings of a data set, the first being the one that summaries show; else the label."""
        return self.groups.by.get(dataset) or ("label",)

    def judged(self) -> Study:
        """Return what those need to know of the study who judge its answers."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in _JUDGED}
        parts: dict[str, Any] = {
            section: {name: method.described() for name, method in getattr(self, section).items()}
            for section in ("methods", "mitigations")
        }
        given = {name: one.dataset for name, one in self.answers.items()}
        shared["models"] = (*self.models, *given)
        return Study(**shared, **parts, answers=given)

    def source(self, dataset: str) -> Source:
        """How a data set is made; an entry left empty in the file means the defaults."""
        if dataset not in self.sources:
            raise ParamsError(
                f"sources: no data set {dataset!r}; there are {', '.join(self.sources)}"
                f"{close_names(dataset, self.sources)}"
            )
        return self.sources[dataset] or Source()


def extend(module: Any) -> None:
    """Import a module of the user's own, in the folder of the study or installed.

    A ``ValueError`` is raised when it is not there, or fails while it is imported.
    """
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        importlib.import_module(str(module))
    except (Exception, SystemExit) as error:  # the module may do anything
        if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"extensions: {module!r} cannot be found; it must be a module in the folder of the "
                "study, or an installed one"
            ) from None
        raise ValueError(
            f"extensions: {module} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    Parameters
    ----------
    path
        A YAML file with the sections of :class:`Params`.

    Raises
    ------
    ParamsError
        With one line a problem: the key, what was given, what is legal.
    """
    return read(Params, path, "run in the folder of a study; `quantskew init DIR` makes one")


def parse(given: Mapping[str, Any], name: str = "params") -> Params:
    """Check parameters that are already a mapping; see :func:`load`."""
    return checked(Params, given, name)
