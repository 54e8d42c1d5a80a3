"""What the site shows that no page under ``docs`` holds: the README, the manual of parameters.

MkDocs calls the functions whose names begin with ``on_`` (``mkdocs.yml``). Nothing that is made
here is committed, so nothing of it can fall behind the code.
"""

import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from pydantic.fields import FieldInfo

from quantskew.params import Params
from quantskew.sections import Choice, Section

ROOT = Path(__file__).parents[1]
AT_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "CITATION.cff": "CITATION.cff",
}
PARAMETERS = "<!-- parameters -->"
_PLAIN = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`"}
_BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_NO_DEFAULT = "required"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the root of the project."""
    for name, page in AT_THE_ROOT.items():
        text = from_the_root((ROOT / name).read_text(encoding="utf-8"))
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the tables of parameters, and let links leave the folder of pages.

    Pages at the root are on the site too; code is not, so of a link to it the name remains.
    """
    if PARAMETERS in markdown:
        markdown = markdown.replace(PARAMETERS, parameters())
    for name, page in AT_THE_ROOT.items():
        markdown = markdown.replace(f"](../{name}", f"]({page}")
    return re.sub(r"\[([^\]]+)\]\((?:\.\./)+(?:src|benchmarks)[^)]*\)", r"\1", markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Take Sphinx's roles off the names in docstrings."""
    return re.sub(r":(?:mod|func|class|data|meth|attr):\s*(?=<code)", "", html)


def from_the_root(text: str) -> str:
    """Turn the links of a page at the root of the project into links of the site."""
    text = text.replace("](docs/", "](").replace('src="docs/', 'src="')
    for name, page in AT_THE_ROOT.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text


def parameters() -> str:
    """Describe every key of ``params.yaml`` by the class that reads it.

    Returns
    -------
    Markdown: a table of keys for each section, then the same for each kind of a setting.
    """
    shown: list[type[Section]] = []
    pending: list[tuple[str, type[Section]]] = [("params.yaml", Params), *_sections(Params)]
    parts: list[str] = []
    while pending:
        name, section = pending.pop(0)
        if section in shown:
            continue
        shown.append(section)
        parts.append(_described(name, section))
        if issubclass(section, Choice) and not section.kind:
            pending = [*section.kinds.items(), *pending]
        elif section is not Params:
            pending = [*_sections(section), *pending]
    study = (ROOT / "params.yaml").read_text(encoding="utf-8")
    return f"{''.join(parts)}## The default study\n\n```yaml\n{study}```\n"


def _described(name: str, section: type[Section]) -> str:
    level = "##"
    if issubclass(section, Choice):
        level = "####" if section.kind else "###"
    said = [f"{level} {_title(name, section)} {{ #{_anchor(section)} }}", _text(section)]
    if issubclass(section, Choice) and not section.kind:
        said.append("One of " + ", ".join(_link(n, k) for n, k in section.kinds.items()) + ".")
    elif section.model_fields:
        comments = _comments(section)
        rows = [
            f"| `{key}` | {_legal(_whole(field))} | {_default(field)} | {comments.get(key, '')} |"
            for key, field in section.model_fields.items()
        ]
        said.append("| key | legal | default | |\n| --- | --- | --- | --- |\n" + "\n".join(rows))
    return "\n\n".join(said) + "\n\n"


def _title(name: str, section: type[Section]) -> str:
    return "Top level" if section is Params else f"`{name}`"


def _anchor(section: type[Section]) -> str:
    return f"{section.__module__}.{section.__name__}".removeprefix("quantskew.").lower()


def _link(name: str, section: type[Section]) -> str:
    return f"[`{name}`](#{_anchor(section)})"


def _text(section: type[Section]) -> str:
    """Return a docstring as Markdown."""
    text = inspect.cleandoc(section.__doc__ or "")
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r":\s*\n\n(?=    )", ":\n\n", text.replace("``", "`"))
    return re.sub(r"(?m)^(\w+)\n-+$", r"**\1**\n", text)


def _comments(section: type[Section]) -> dict[str, str]:
    """Return what stands behind each key in the source, of the classes it inherits from too."""
    found: dict[str, str] = {}
    for owner in reversed(section.__mro__):
        if owner.__module__.startswith("quantskew."):
            for line in inspect.getsource(owner).splitlines():
                if match := re.match(r"    (\w+): [^#]+#\s*(.*)", line):
                    found[match[1]] = match[2].replace("|", "\\|")
    return found


def _whole(field: FieldInfo) -> Any:
    """Return the annotation of a field with the bounds that pydantic took off it."""
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _legal(annotation: Any) -> str:
    """Say in words what an annotation accepts."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return " ".join([_legal(arguments[0]), *_bounds(arguments[1:])])
    if origin in (Union, UnionType):
        parts = ["`null`" if part is type(None) else _legal(part) for part in arguments]
        return " or ".join(dict.fromkeys(parts))
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        each = [part for part in arguments if part is not Ellipsis]
        return f"list of {_legal(each[0])}" if Ellipsis in arguments else f"{len(each)} values"
    if origin is dict:
        return f"names, each: {_legal(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Choice):
        return f"one of [{', '.join(annotation.kinds)}](#{_anchor(annotation)})"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"[section](#{_anchor(annotation)})"
    return _PLAIN.get(annotation, "anything")


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(tuple(item.metadata))
            if item.description:
                yield f"({item.description})"
        for name, sign in _BOUNDS.items():
            if (limit := getattr(item, name, None)) is not None:
                yield f"{sign} {limit}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return _NO_DEFAULT
    return f"`{_as_written(field.get_default(call_default_factory=True))}`"


def _as_written(value: Any) -> str:
    """Write a default as YAML would."""
    if isinstance(value, Choice):
        return value.kind
    if isinstance(value, Section):
        return "{}" if value == type(value)() else str(value.model_dump(exclude_defaults=True))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {_as_written(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_as_written, value)) + "]"
    if isinstance(value, str):
        return value or '""'
    return json.dumps(value) if isinstance(value, bool | None) else str(value)


def _sections(section: type[Section]) -> list[tuple[str, type[Section]]]:
    """Return the sections and families that the fields of a section lead to, by key."""
    return [
        (key, inner)
        for key, field in section.model_fields.items()
        for inner in _within(field.annotation)
    ]


def _within(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _within(argument)
