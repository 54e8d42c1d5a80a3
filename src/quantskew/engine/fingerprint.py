"""Hashes of everything that a result depends on: code, files and values.

The code of a module is its source and that of every module of the same package that it imports,
directly or indirectly, without comments and docstrings. For a user's own module, the modules in
the same folder that it imports count as well.
"""

import ast
import hashlib
import importlib.util
import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache, cached_property, partial
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple

from pydantic import BaseModel

from quantskew.engine.store import default_store
from quantskew.errors import UserError, named
from quantskew.files import write_json
from quantskew.sections import Code, Section
from quantskew.starting import PACKAGED

LIBRARIES = ("numpy", "pandas", "pyarrow", "scipy", "timm", "torch", "torchvision")
DECLARATIONS = {"quantskew", "quantskew.schemas"}
"""Modules that compute nothing: the package lends names to its users, and of the schemas of tables
the stage depends that writes and reads the tables."""


@cache
def libraries() -> dict[str, str]:
    """Version of each library that results depend on."""
    return {name: version(name) for name in LIBRARIES}


def identity(value: Any) -> Any:
    """Represent a value in a fingerprint by types that JSON holds, or raise ``TypeError``.

    Examples
    --------
    >>> identity({"bits": (8, 4)})
    {'bits': [8, 4]}
    """
    match value:
        case Path():
            return file_hash(value)
        case Code():
            return None if value.module.partition(".")[0] in LIBRARIES else code_hash(value.module)
        case Section():
            return identity(value.identity())
        case BaseModel():
            return identity(value.model_dump())
        case Mapping():
            return {str(key): identity(item) for key, item in value.items()}
        case list() | tuple():
            return [identity(item) for item in value]
        case None | str() | int() | float():
            return value
    raise TypeError(f"a cell cannot depend on a {type(value).__name__}: {value!r}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, which is read again only after its size or modification time changes."""
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@cache
def _file_hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_hash(path: Path) -> str | None:
    """SHA-256 of the names, sizes and modification times of a file or of all files in a folder.

    This is fast even for a large data set, whose content would take minutes to read. ``None``
    stands for a path that does not exist.
    """
    if not path.exists():
        return None
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            status = file.stat()
            line = f"{file.relative_to(path)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


@cache
def package_hash() -> str:
    """SHA-256 of all code and templates of quantskew, wherever it is installed."""
    root, digest = Path(__file__).parents[1], hashlib.sha256()
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root)
        if file.suffix in (".py", ".j2") and name.parts[0] != PACKAGED:
            digest.update(f"{name}\0{file_hash(file)}\n".encode())
    return digest.hexdigest()


@cache
def code_hash(module: str) -> str:
    """SHA-256 of a module and of all modules of its own package that it imports."""
    modules = imports(module)
    if not modules:
        raise UserError(f"the module {module!r} cannot be found, or is not Python code")
    digest = hashlib.sha256()
    for name in sorted(modules):
        digest.update(f"{name}\n{_read(name).bare}\n".encode())
    _keep()
    return digest.hexdigest()


def outside(functions: Iterable[Callable[..., Any]]) -> set[str]:
    """Names of the modules outside of quantskew that some of its functions are defined in.

    Examples
    --------
    >>> from textwrap import dedent
    >>> outside([outside, dedent])
    {'textwrap'}
    """
    plain = (function.func if isinstance(function, partial) else function for function in functions)
    modules = {function.__module__ for function in plain}
    return {name for name in modules if name.partition(".")[0] != "quantskew"}


def imports(module: str) -> set[str]:
    """Names of a module and of the modules of its own package that it imports, also indirectly."""
    package, found, waiting = module.partition(".")[0], set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in DECLARATIONS:
            continue
        specification = _specification(name)
        if specification is None or not specification.has_location:
            continue
        if name.partition(".")[0] != package and not _beside(package, specification):
            continue
        found.add(name)
        waiting += _read(name).imported
    return found


def defines(name: str) -> bool:
    """Whether ``module:name`` can be found, as far as can be seen without importing the module."""
    module, _, attribute = name.partition(":")
    specification = _specification(module)
    if specification is None:
        return False
    if specification.origin is None or not specification.origin.endswith(".py"):
        return True  # compiled, or a namespace
    names: set[str] = set()
    for node in ast.walk(_Source(specification, Path(specification.origin).read_bytes()).tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Name(ctx=ast.Store()):
                names.add(node.id)
            case ast.alias():
                names.add(node.asname or node.name)
    return attribute in names or "*" in names or "__getattr__" in names


def _beside(package: str, specification: ModuleSpec) -> bool:
    """Whether a user's module lies beside the package: neither part of quantskew nor installed."""
    top = _specification(package)
    if top is None or specification.name.partition(".")[0] == "quantskew":
        return False
    place = next(iter(top.submodule_search_locations or [top.origin or ""]))
    origin = Path(specification.origin or "").resolve()
    installed = {"site-packages", "dist-packages"} & {*origin.parts}
    return origin.is_relative_to(Path(place).resolve().parent) and not installed


@cache
def _specification(module: str) -> ModuleSpec | None:
    """Find a module without importing its parents, as :func:`importlib.util.find_spec` would."""
    parent = module.rpartition(".")[0]
    if not parent:
        return importlib.util.find_spec(module)
    package = _specification(parent)
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(module, package.submodule_search_locations)


class _Read(NamedTuple):
    """What is known of the code of a module.

    Attributes
    ----------
    of
        SHA-256 of what the rest was worked out from.
    bare
        SHA-256 of the code without docstrings and comments.
    imported
        Names that may be those of modules that it imports.
    """

    of: str
    bare: str
    imported: list[str]


_NEW: dict[str, _Read] = {}
"""What this process worked out, by module; a file in the store saves the next one that work."""


@cache
def _read(module: str) -> _Read:
    """Read a module once: workers go on with the code that they began with, and so do names."""
    specification = _specification(module)
    assert specification is not None
    assert specification.origin is not None
    code = Path(specification.origin).read_bytes()
    digest = hashlib.sha256(code + f"\0{sys.version}\0{specification.parent}".encode())
    if b"__path__" in code:  # it may import what lies in its folder
        folders = specification.submodule_search_locations or []
        digest.update(str(sorted(found.name for found in iter_modules(folders))).encode())
    kept = _kept().get(module)
    if kept is None or kept.of != digest.hexdigest():
        source = _Source(specification, code)
        bare = hashlib.sha256(source.bare.encode()).hexdigest()
        kept = _NEW[module] = _Read(digest.hexdigest(), bare, source.imported)
    return kept


def _place() -> Path:
    return default_store() / "code.json"


def _kept() -> dict[str, _Read]:
    with suppress(OSError):  # it is worked out again
        return _content(_place(), _place().stat().st_mtime_ns)
    return {}


@cache
def _content(path: Path, modified: int) -> dict[str, _Read]:
    with suppress(ValueError, TypeError, AttributeError):  # broken: worked out again as well
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: _Read(*one) for name, one in found.items()}
    return {}


def _keep() -> None:
    if _NEW and default_store().is_dir():
        write_json(_place(), _kept() | _NEW)
        _NEW.clear()


class _Source:
    """The code of a module, as a tree."""

    def __init__(self, specification: ModuleSpec, code: bytes) -> None:
        self.specification = specification
        with named(f"reading {specification.origin} as Python"):
            self.tree = ast.parse(code)

    @cached_property
    def imported(self) -> list[str]:
        """Names that may be those of modules that it imports."""
        own, names = self.specification, list[str]()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                source = importlib.util.resolve_name(relative, own.parent)
                # an imported name may be a module as well
                names += [source, *(f"{source}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Name) and node.id == "__path__":
                # a package that goes through its own folder imports all modules in it
                folders = own.submodule_search_locations or []
                names += [f"{own.name}.{module.name}" for module in iter_modules(folders)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                # the function of a cell, such as "quantskew.methods:quantize"
                names += re.findall(r"\A(quantskew\.[^:]+):[^\W\d]\w*\Z", node.value)
        return names

    @cached_property
    def bare(self) -> str:
        """All but its docstrings and comments, which change no result."""
        for node in ast.walk(self.tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                body[:] = [item for item in body if not _is_docstring(item)]
        return ast.dump(self.tree)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
