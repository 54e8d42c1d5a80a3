"""Sections of a parameter file: typed, immutable, and closed to keys that they do not know.

A section lives beside the code that it sets. Where a setting is one of several kinds, each kind is
a class of a family: a direct subclass of :class:`Choice` is the family, and its subclasses are its
kinds. A kind carries its own settings and does the work, so a setting without its kind cannot be
written, and a new kind is one class:

    class Rounding(Choice):
        def codes(self, ...): ...

    class AdaRound(Rounding, kind="adaround"):
        steps: Count = 1000
        def codes(self, ...): ...

In YAML a kind is written as ``rounding: {kind: adaround, steps: 500}``, or by its name alone where
its settings are the defaults, ``rounding: adaround``. A family may give the key another name than
``kind`` (``tag``), and name the kind that is meant where the key is missing (``usual``).
"""

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from quantskew.errors import UserError, close_names, named


def _number(value: Any) -> Any:
    """Refuse a truth value where a number is meant, also within a list or a mapping."""
    inner = value.values() if isinstance(value, Mapping) else value
    parts = inner if isinstance(inner, Iterable) and not isinstance(inner, str) else [inner]
    if any(isinstance(part, bool) for part in parts):
        raise ValueError(f"got {value}, which holds a truth value; a number is needed")
    return value


Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=2, le=8, description="bits of an integer code")]


def as_list(value: Any) -> Any:
    """Return a single text or number as a list of it, and anything else as it is."""
    return [value] if isinstance(value, int | str) and not isinstance(value, bool) else value


Names = Annotated[tuple[str, ...], BeforeValidator(as_list), Field(min_length=1)]
Widths = Annotated[tuple[Width, ...], BeforeValidator(as_list), Field(min_length=1)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""What every generator of random numbers takes."""
Draws = Annotated[int, Field(ge=100, le=1_000_000, description="of the bootstrap")]
Seeds = Annotated[tuple[Seed, ...], BeforeValidator(as_list), Field(min_length=1)]


class ParamsError(UserError, ValueError):
    """A parameter file holds something that cannot be run; the message lists every problem."""


class KindError(UserError, ValueError):
    """A kind of the user's own fails; where it checks parameters, the key is named as well."""


class Code(NamedTuple):
    """Stands for the code of a module in the identity of a section."""

    module: str


class Section(BaseModel):
    """A part of a parameter file: immutable, and closed to keys that it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before", check_fields=False)
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, field: ValidationInfo) -> Any:
        """Refuse ``accuracy: true``, which would be read as 1."""
        annotation = cls.model_fields[str(field.field_name)].annotation
        return _number(value) if _numeric(annotation) else value

    def identity(self) -> dict[str, Any]:
        """Return what a result depends on when it depends on this section.

        A section that names files or code adds them here: a :class:`~pathlib.Path` stands for the
        content of its file, and :class:`Code` for that of a module.
        """
        return {name: getattr(self, name) for name in type(self).model_fields}


class Choice(Section):
    """One of several kinds of a setting; see the text of the module."""

    tag: ClassVar[str] = "kind"
    usual: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    kinds: ClassVar[dict[str, Any]]  # classes by the name of their kind

    def __init_subclass__(cls, kind: str = "", **options: Any) -> None:
        super().__init_subclass__(**options)
        if Choice in cls.__bases__:
            cls.kinds = {}
        elif kind:
            if not isinstance(kind, str) or kind in cls.kinds:
                raise TypeError(f"{cls.__name__}: {kind!r} is no text, or a kind of it already")
            cls.kind = kind
            cls.kinds[kind] = cls
            if not cls.__module__.startswith("quantskew."):
                for name, part in [*vars(cls).items()]:
                    if inspect.isfunction(part):
                        setattr(cls, name, named(f"the kind {kind!r}: {name}", KindError)(part))

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        if cls.kind and inspect.isabstract(cls):
            raise TypeError(f"the kind {cls.kind!r} lacks {', '.join(cls.__abstractmethods__)}")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Accept any kind of the family where the family is asked for."""
        if not cls.kind:
            return core_schema.no_info_plain_validator_function(cls._of_kind)
        return handler(source)

    @classmethod
    def _of_kind(cls, given: Any) -> Self:
        if isinstance(given, cls):
            return given
        rest = {cls.tag: given} if isinstance(given, str) else given
        if not isinstance(rest, Mapping) or not (cls.usual or cls.tag in rest):
            raise PydanticCustomError("no_kind", "{legal}", {"legal": cls._legal()})
        kind = rest.get(cls.tag, cls.usual)
        settings = {key: value for key, value in rest.items() if key != cls.tag}
        if not isinstance(kind, str) or kind not in cls.kinds:
            raise PydanticCustomError(
                "unknown_kind",
                "{legal}{close}",
                {"legal": cls._legal(), "close": close_names(str(kind), cls.kinds)},
            )
        chosen: Self = cls.kinds[kind].model_validate(settings)
        return chosen

    @classmethod
    def _legal(cls) -> str:
        return f"legal: {', '.join(cls.kinds)}"

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {self.tag: self.kind, **handler(self)}

    def identity(self) -> dict[str, Any]:
        """Return the kind with its settings, and with its code where the kind is a user's own."""
        identity = {self.tag: self.kind, **super().identity()}
        module = type(self).__module__
        return identity if module.startswith("quantskew.") else identity | {"code": Code(module)}


_Kind = TypeVar("_Kind", bound=Section)


def read(section: type[_Kind], path: str | Path, hint: str) -> _Kind:
    """Read and check a YAML file of a ``section``; the ``hint`` says how to get a missing one.

    A :class:`ParamsError` has one line a problem: the key, what was given, what is legal.
    """
    try:
        given = yaml.load(Path(path).read_text(encoding="utf-8"), _StrictLoader)
    except FileNotFoundError:
        raise ParamsError(f"{path}: no such file; {hint}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ParamsError(f"{path} is not YAML: {error}") from None
    if not isinstance(given, dict):
        raise ParamsError(f"{path} holds no sections; it must map keys to values")
    return checked(section, given, str(path))


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error: one of the two would be ignored."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for key, times in Counter(key for key in keys if isinstance(key, str)).items():
            if times > 1:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key!r} stands more than once", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def checked(section: type[_Kind], given: Mapping[str, Any], name: str) -> _Kind:
    """Check a mapping against a section; ``name`` says in an error where it came from.

    YAML reads ``1e-06`` as a text (it wants ``1.0e-06``), so numbers that are given as texts are
    accepted where a number is meant.
    """
    try:
        return section.model_validate(given)
    except ValidationError as error:
        lines = "\n".join(f"  {line}" for line in explained(error, section, given))
        raise ParamsError(f"{name} cannot be run:\n{lines}") from None


def explained(
    error: ValidationError, section: type[Section], given: Mapping[str, Any]
) -> Iterator[str]:
    """Say of each problem where it stands, what was given and what is legal."""
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "the file"
        value, context = problem["input"], problem.get("ctx", {})
        match problem["type"]:
            case "extra_forbidden":
                legal = _keys_at(section, problem["loc"][:-1], given)
                yield (
                    f"{key}: unknown key; legal here: {', '.join(legal)}"
                    f"{close_names(str(problem['loc'][-1]), legal)}"
                )
            case "missing":
                yield f"{key}: is required and not given"
            case "literal_error":
                legal = re.findall(r"'([^']*)'", context["expected"])
                yield f"{key}: got {value!r}; legal: {', '.join(legal)}{close_names(value, legal)}"
            case "value_error":
                yield f"{key}: {context['error']}" if problem["loc"] else str(context["error"])
            case "tuple_type" | "list_type":
                yield f"{key}: got {value!r}; a list is needed, such as [{value}]"
            case _:
                yield f"{key}: got {value!r}; {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _numeric(annotation: Any) -> bool:
    """Whether an annotation holds a number and nothing that a truth value could be meant for."""
    if hasattr(annotation, "__metadata__"):  # Annotated
        annotation = annotation.__origin__
    if annotation in (int, float):
        return True
    parts = [part for part in get_args(annotation) if part not in (type(None), ...)]
    return bool(parts) and all(map(_numeric, parts))


def _keys_at(section: type[Section], location: tuple[int | str, ...], given: Any) -> list[str]:
    """Return the legal keys of the section at a location of the parameter tree."""
    at: Any = section
    for part in location:
        is_section = isinstance(at, type) and issubclass(at, Section)
        if isinstance(part, int) and is_section:
            continue  # a single entry, which stands for a list of it
        if is_section:
            at = at.model_fields[str(part)].annotation if str(part) in at.model_fields else None
        else:  # dict[str, Section]: the name of an entry; Section | None: its optional form
            at = next(iter(_sections(at)), None)
        listed = isinstance(part, int) and isinstance(given, list | tuple)
        given = given[part] if listed or (isinstance(given, Mapping) and part in given) else None
        family = next(iter(_sections(at)), None)
        if family is not None and issubclass(family, Choice) and isinstance(given, Mapping):
            at = family.kinds.get(given.get(family.tag, family.usual), family)
    found = next(iter(_sections(at)), None)
    if found is None:
        return []
    tag = [found.tag] if issubclass(found, Choice) else []
    return [*tag, *found.model_fields]


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _sections(argument)
