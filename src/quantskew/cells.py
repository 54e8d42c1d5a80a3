"""What a cell is, and a store in which a finished cell is never done again.

A cell is one unit of work, a function that fills a folder with files: one network trained, one
variant quantized, one variant evaluated. It is named by a *fingerprint* of everything its files
depend on:

==========  ======================================================================================
code        the source of the function's module and of every quantskew module it imports, without
            comments and docstrings (but for the declarations of parameters and tables); of the
            user's own modules also those beside them that they import
libraries   the versions of torch, torchvision, timm and numpy
data        the content of the files it reads
parameters  its other arguments
==========  ======================================================================================

A finished cell is a folder with the fingerprint as its name. It appears in one step, by a rename,
so what is in the store is whole; what is under way ends in ``.part`` and may hold a checkpoint
with which the function goes on after an interruption. Nothing in the store is ever overwritten.
"""

import ast
import hashlib
import importlib
import importlib.util
import json
import os
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache, cached_property
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel
from tqdm import tqdm

from quantskew import workers
from quantskew.command import UserError
from quantskew.params import Architecture, Compute, Method

LIBRARIES = ("numpy", "timm", "torch", "torchvision")
# what these declare reaches a cell as the values of its arguments and the files it reads; the
# package itself only lends names to its users
DECLARATIONS = {"quantskew", "quantskew.command", "quantskew.tables"}
PARAMETERS = "quantskew.params"  # declarations too, but for what their sections compute


class CellError(UserError, RuntimeError):
    """A cell failed; the message names it and what went wrong."""


class Cell:
    """A call ``function(folder, **arguments)`` that writes its results into ``folder``.

    Parameters
    ----------
    name
        What the user sees of it in progress bars and errors.
    function
        As ``package.module:function``. It is imported where it runs, so that the process that
        hands out the cells starts without the seconds that importing torch takes.
    arguments
        Strings, numbers, lists, mappings, parameter sections; a :class:`~pathlib.Path` stands for
        the content of its file, an architecture also for its checkpoint and the code it names, a
        method for that of its own function.
    """

    def __init__(self, name: str, function: str, /, **arguments: Any) -> None:
        self.name = name
        self.function = function
        self.arguments = arguments

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal name of everything the result depends on."""
        identity = {
            "function": self.function,
            "code": code_hash(self.function.partition(":")[0]),
            "libraries": _libraries(),
            "arguments": _identity(self.arguments),
        }
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:32]


@cache
def _libraries() -> dict[str, str]:
    return {name: version(name) for name in LIBRARIES}


def _identity(value: Any) -> Any:
    if isinstance(value, Path):
        return file_hash(value)
    if isinstance(value, Architecture):
        module = value.factory.partition(":")[0]
        weights = Path(value.checkpoint) if value.checkpoint is not None else None
        return {
            **_identity(value.model_dump()),
            "checkpoint": _identity(weights),
            "code": None if module in LIBRARIES else code_hash(module),
        }
    if isinstance(value, Method) and value.function is not None:
        code = code_hash(value.function.partition(":")[0])
        return {**_identity(value.model_dump()), "code": code}
    if isinstance(value, BaseModel):
        return _identity(value.model_dump())
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise TypeError(f"a cell cannot depend on a {type(value).__name__}: {value!r}")


def file_hash(path: Path) -> str:
    """SHA-256 of a file, read once as long as its size and time stay the same."""
    if not path.is_file():
        raise CellError(f"{path}: no such file")
    status = path.stat()
    return _file_hash(path, status.st_size, status.st_mtime_ns)


@cache
def _file_hash(path: Path, size: int, modified: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_hash(module: str) -> str:
    """SHA-256 of a module and of all it imports of its own package, comments left out."""
    digest = hashlib.sha256()
    for name in sorted(_imports(module)):
        digest.update(f"{name}\n{_bare_source(name)}\n".encode())
    return digest.hexdigest()


def _imports(module: str) -> set[str]:
    package, found, waiting = module.partition(".")[0], set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found or name in DECLARATIONS:
            continue
        specification = _specification(name)
        if specification is None or not specification.has_location:
            continue
        if not (name.startswith(package) or _beside(package, specification)):
            continue
        found.add(name)
        for node in ast.walk(_tree(name)):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                relative = "." * node.level + (node.module or "")
                source = importlib.util.resolve_name(relative, specification.parent)
                # its names may be modules too
                waiting += [source, *(f"{source}.{alias.name}" for alias in node.names)]
    return found


def _beside(package: str, specification: ModuleSpec) -> bool:
    """Whether a module lies in the folder that a package is in, neither ours nor installed."""
    top = _specification(package)
    if top is None or specification.name.partition(".")[0] == "quantskew":
        return False
    place = next(iter(top.submodule_search_locations or [top.origin or ""]))
    origin = Path(specification.origin or "").resolve()
    installed = {"site-packages", "dist-packages"} & {*origin.parts}
    return origin.is_relative_to(Path(place).resolve().parent) and not installed


@cache
def _specification(module: str) -> ModuleSpec | None:
    """Find a module; :func:`importlib.util.find_spec` would import the packages around it."""
    parent = module.rpartition(".")[0]
    if not parent:
        return importlib.util.find_spec(module)
    package = _specification(parent)
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(module, package.submodule_search_locations)


@cache
def _tree(module: str) -> ast.Module:
    specification = _specification(module)
    assert specification is not None
    assert specification.origin is not None
    return ast.parse(Path(specification.origin).read_text(encoding="utf-8"))


def _bare_source(module: str) -> str:
    tree = _tree(module)
    if module == PARAMETERS:
        tree = _computing(tree)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [  # type: ignore[attr-defined]
                item
                for item in body
                if not (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
            ]
    return ast.dump(tree)


def _computing(tree: ast.Module) -> ast.Module:
    """Methods of classes, without the validators: those are decorated with a call."""
    sections = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    # all of them together are no argument of a cell
    methods = (item for node in sections if node.name != "Params" for item in node.body)
    computing: list[ast.stmt] = [
        item
        for item in methods
        if isinstance(item, ast.FunctionDef)
        and not any(isinstance(decorator, ast.Call) for decorator in item.decorator_list)
    ]
    return ast.Module(computing, [])


def default_store() -> Path:
    """Folder of finished cells: ``$QUANTSKEW_CELLS``, or ``.cells`` where the study is run."""
    return Path(os.environ.get("QUANTSKEW_CELLS", ".cells"))


def run(cells: Sequence[Cell], *, title: str, compute: Compute) -> dict[str, Path]:
    """Do the cells that are not done yet, and return the folder of each by its name.

    Parameters
    ----------
    cells
        With different names. Two cells of one fingerprint are done once.
    title
        Stands before the progress bar.
    compute
        Where the cells run. No result depends on it but by the number of threads of a cell
        (:mod:`quantskew.workers`).

    Raises
    ------
    CellError
        When cells failed. The others are done and kept.
    """
    store = default_store()
    folders = {cell.name: store / cell.fingerprint[:2] / cell.fingerprint for cell in cells}
    if len(folders) < len(cells):
        raise ValueError("two cells of a stage share a name")
    waiting = {folders[cell.name]: cell for cell in cells if not folders[cell.name].is_dir()}
    threads = workers.threads(compute, len(cells))
    tasks = {
        cell.name: (cell.function, folder, cell.arguments, threads)
        for folder, cell in waiting.items()
    }
    modules = {"torch", *(cell.function.partition(":")[0] for cell in waiting.values())}
    failures = []
    bar = tqdm(
        total=len(set(folders.values())),
        initial=len(set(folders.values())) - len(waiting),
        desc=title,
        unit="cell",
        dynamic_ncols=True,
    )
    with bar, closing(workers.start(_do, tasks, modules, compute)) as outcomes:
        for name, failure in outcomes:
            if failure:
                failures.append(f"{name}: {failure}\n    {_told(tasks[name][2])}")
            bar.set_postfix_str(f"{len(failures)} failed, {name}" if failures else name, False)
            bar.update()
    if failures:
        done = len(waiting) - len(failures)
        raise CellError(
            f"{len(failures)} of {len(waiting)} cells failed ({done} are done and kept):\n  "
            + "\n  ".join(sorted(failures))
        )
    return folders


def _told(arguments: Mapping[str, Any]) -> str:
    """Arguments as a person would give them: without what is left at its default."""
    told = {
        name: value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
        for name, value in arguments.items()
    }
    return ", ".join(f"{name}={value}" for name, value in told.items() if value is not None)


def _do(function: str, folder: Path, arguments: Mapping[str, Any], threads: int) -> str | None:
    import torch

    torch.set_num_threads(threads)
    workers.keep_freed_memory()
    part = folder.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    # a node that lost touch may still be at this cell when another is given it
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return None
        try:
            module, _, name_there = function.partition(":")
            getattr(importlib.import_module(module), name_there)(part, **arguments)
        except Exception as error:
            (part / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            return f"{type(error).__name__}: {error}  (trace: {part / 'error.txt'})"
        # those with a dot were being written when an earlier try was killed
        for leftover in (*part.glob("checkpoint*"), *part.glob(".*"), *part.glob("error.txt")):
            leftover.unlink()
        part.rename(folder)
    return None
