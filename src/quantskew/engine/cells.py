"""Cells and how they are run: a finished cell is never computed again.

A cell is one unit of work, a function that fills a folder with files: one network is trained, one
variant is quantized or evaluated. It is identified by a *fingerprint* of all that the files depend
on:

==========  ======================================================================================
code        source of the function's module with its imports, and of further modules whose kinds it
            may use, such as a user's own metrics (:mod:`quantskew.engine.fingerprint`)
libraries   versions of the libraries that compute
data        content of the files that the function reads
parameters  its other arguments
threads     number of CPU threads that it may use
==========  ======================================================================================

The folder of a finished cell is named by the fingerprint. It appears in one step, by a rename, so
everything in the store is complete, and nothing in it is ever overwritten. The folder of a running
cell ends in ``.part`` and may hold a checkpoint from which the function resumes after an
interruption. Cells of one process share no state that one of them could change: each starts from
the same random state, and what several use is copied before a user's function receives it.
"""

import hashlib
import importlib
import json
import random
import sys
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from pydantic import BaseModel
from tqdm import tqdm

from quantskew.engine.compute import (
    Compute,
    Outcomes,
    Tasks,
    give_back_freed_memory,
    keep_freed_memory,
)
from quantskew.engine.fingerprint import code_hash, identity, libraries
from quantskew.engine.pool import processes
from quantskew.engine.ray_pool import cluster
from quantskew.engine.store import default_store
from quantskew.errors import UserError, of_the_machine


class CellError(UserError, RuntimeError):
    """A cell failed; the message names it and what went wrong."""


class Cell:
    """A call ``function(folder, **arguments)`` that writes its results into ``folder``.

    The ``name`` is shown in progress bars and errors. The function is named
    ``package.module:function`` and imported only where the cell runs, so that the process that
    distributes cells need not wait for torch.

    Arguments are strings, numbers, lists, mappings and sections of parameters. The fingerprint
    contains the content of the file at a :class:`~pathlib.Path`, and of a section its
    :meth:`~quantskew.sections.Section.identity`. ``modules`` are those that register what the
    function finds by name and does not import: they are imported where the cell runs, and their
    code is part of the fingerprint.
    """

    def __init__(
        self, name: str, function: str, /, *, modules: Iterable[str] = (), **arguments: Any
    ) -> None:
        self.name = name
        self.function = function
        self.modules = tuple(sorted(modules))
        self.arguments = arguments

    @cached_property
    def depends_on(self) -> dict[str, Any]:
        """What the result depends on, except for the number of threads."""
        return {
            "function": self.function,
            "code": code_hash(self.function.partition(":")[0]),
            "libraries": libraries(),
            "arguments": identity(self.arguments),
            **({"modules": [code_hash(name) for name in self.modules]} if self.modules else {}),
        }

    def fingerprint(self, threads: int = 1) -> str:
        """Hash of everything that the result depends on, in hexadecimal."""
        text = json.dumps({**self.depends_on, "threads": threads}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


_LAST: list[str] = []
"""Function of the cell that this process ran last."""


class Done(NamedTuple):
    """Folders of finished cells and error messages of the others, by the name of the cell."""

    folders: dict[str, Path]
    failures: dict[str, str]


def run(cells: Sequence[Cell], *, title: str, compute: Compute) -> dict[str, Path]:
    """Run the cells that are not finished, and return the folder of each by its name.

    A :class:`CellError` lists cells that failed. The others are kept; see :func:`attempt`.
    """
    folders, failures = attempt(cells, title=title, compute=compute)
    if failures:
        raise CellError(
            f"{len(failures)} of {len(cells)} cells failed (the others are done and kept):\n  "
            + "\n  ".join(f"{name}: {failures[name]}" for name in sorted(failures))
        )
    return folders


def attempt(cells: Sequence[Cell], *, title: str, compute: Compute) -> Done:
    """Run the cells that are not finished; a cell that fails does not stop the others.

    Cells have different names; those with the same fingerprint are run once. The ``title`` labels
    the progress bar, and ``compute`` says where the cells run. Results depend only on its ``cpus``,
    the threads of a cell.
    """
    folders = {cell.name: _folder(cell, compute) for cell in cells}
    if len(folders) < len(cells):
        raise ValueError("two cells of a stage share a name")
    waiting = {folders[cell.name]: cell for cell in unfinished(cells, compute)}
    tasks = {
        cell.name: (cell.function, folder, cell.arguments, compute.cpus, cell.modules)
        for folder, cell in waiting.items()
    }
    modules = {cell.function.partition(":")[0] for cell in waiting.values()}
    modules |= {name for cell in waiting.values() for name in cell.modules}
    failures: dict[Path, str] = {}
    total = len({*folders.values()})
    bar = tqdm(
        desc=title, total=total, initial=total - len(waiting), unit="cell", dynamic_ncols=True
    )
    with bar, closing(_outcomes(tasks, modules, compute)) as outcomes:
        for name, failure in outcomes:
            if failure:
                failures[folders[name]] = f"{failure}\n    {_as_text(tasks[name][2])}"
            bar.set_postfix_str(f"{len(failures)} failed, {name}" if failures else name, False)
            bar.update()
    return Done(
        {name: folder for name, folder in folders.items() if folder not in failures},
        {name: failures[folder] for name, folder in folders.items() if folder in failures},
    )


def unfinished(cells: Sequence[Cell], compute: Compute) -> list[Cell]:
    """Cells that :func:`attempt` would run."""
    return [cell for cell in cells if not _folder(cell, compute).is_dir()]


def _folder(cell: Cell, compute: Compute) -> Path:
    digest = cell.fingerprint(compute.cpus)
    return default_store() / digest[:2] / digest


def _outcomes(tasks: Tasks, modules: set[str], compute: Compute) -> Outcomes:
    """Run the tasks where ``compute`` says; closing the generator stops those still running."""
    if compute.where == "ray":
        return cluster(_do, tasks, compute)
    at_once = min(compute.at_once(), len(tasks))
    if compute.where == "here" or at_once <= 1:
        return ((name, _do(*task)) for name, task in tasks.items())
    return processes(_do, tasks, modules, at_once)


def _as_text(arguments: Mapping[str, Any]) -> str:
    """Arguments as text, without settings that have their default values."""
    values = {
        name: value.model_dump(exclude_defaults=True) if isinstance(value, BaseModel) else value
        for name, value in arguments.items()
    }
    return ", ".join(f"{name}={value}" for name, value in values.items() if value is not None)


def _do(
    function: str,
    folder: Path,
    arguments: Mapping[str, Any],
    threads: int,
    modules: Iterable[str],
) -> str | None:
    keep_freed_memory()
    if [function] != _LAST:
        give_back_freed_memory()
        _LAST[:] = [function]
    part = folder.with_suffix(".part")
    part.mkdir(parents=True, exist_ok=True)
    # a node that lost its connection may still work on this cell when another one gets it
    with FileLock(folder.with_suffix(".lock")):
        if folder.is_dir():
            return None
        try:
            module, _, name = function.partition(":")
            for further in modules:
                importlib.import_module(further)
            call = getattr(importlib.import_module(module), name)
            _start_alike(threads)
            call(part, **arguments)
        except (Exception, SystemExit) as error:  # a function of the user's own may do anything
            if of_the_machine(error):  # no result of the cell: the stage ends, and can go on
                raise
            (part / "error.txt").write_text(traceback.format_exc(), encoding="utf-8")
            return f"{type(error).__name__}: {error}  (trace: {part / 'error.txt'})"
        # names with a dot are files that an earlier attempt was writing when it was killed
        for leftover in (*part.glob("checkpoint*"), *part.glob(".*"), *part.glob("error.txt")):
            leftover.unlink()
        part.rename(folder)
    return None


def _start_alike(threads: int) -> None:
    """Give every cell the same random state and number of threads, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 (a user's function may use it)
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        torch.manual_seed(0)
        torch.set_num_threads(threads)
