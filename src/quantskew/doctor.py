"""Checks of the installation, of the hardware, and of the data that a study needs."""

import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from quantskew import params
from quantskew.errors import UserError

MARKS = {True: "ok", False: "missing", None: "note"}
BUNDLED = ("digits", "mnist5k")
_HOW = "`python stages/download.py {}` downloads them, or says where and on which terms to get them"


class Check(NamedTuple):
    """Result of one check; ``sound`` is ``None`` for plain information."""

    sound: bool | None
    what: str

    def line(self) -> str:
        """Result as a line of text."""
        return f"{MARKS[self.sound]:8s} {self.what}"


def examine() -> Iterator[Check]:
    """Check the libraries, the device, and the data of the study in this folder if there is one."""
    yield Check(sys.version_info >= (3, 11), f"Python {sys.version.split()[0]} (3.11 or newer)")
    networks = find_spec("torch") is not None
    if not networks:
        in_study = Path("params.yaml").is_file()
        what = "no torch: answers can be judged; for networks pip install 'quantskew[study]'"
        yield Check(False if in_study else None, what)
    missing = [*_libraries(("study", "onnx", "fairlearn") if networks else ("",))]
    yield from missing
    if not missing:
        yield Check(True, "all libraries are installed in suitable versions")
        if networks:
            yield from _device()
    yield from _data()


def _libraries(extras: tuple[str, ...]) -> Iterator[Check]:
    for need in map(Requirement, requires("quantskew") or ()):
        wanted = not need.marker or any(need.marker.evaluate({"extra": one}) for one in extras)
        if need.name == "quantskew" or not wanted:
            continue
        try:
            found = version(need.name)
        except PackageNotFoundError:
            found = "none"
        if found == "none" or not need.specifier.contains(found, prereleases=True):
            fix = f"pip install '{need.name}{need.specifier}'"
            yield Check(False, f"{need.name} {need.specifier}: found {found}; {fix}")


def _device() -> Iterator[Check]:
    try:
        import torch

        from quantskew import _torchvision, models  # also loads timm
        from quantskew.deployment.latency import machine

        where = models.device()
    except Exception as error:  # a broken binary can raise anything
        yield Check(False, f"torch, torchvision, timm, onnxruntime: {error}; reinstall them")
        return
    name = torch.cuda.get_device_name(where) if where.type == "cuda" else "no GPU found"
    yield Check(None, f"networks run on {where.type} ({name})")
    if not _torchvision.FITS:
        yield Check(
            None,
            f"torchvision {_torchvision.torchvision.__version__} is built for another torch than "
            f"{torch.__version__}: quantskew works, `import torchvision` and `import timm` need "
            "`from quantskew import audit` before them; install both from one index",
        )
    cpu = machine()
    listed = ", ".join(cpu["instructions"]) or "none known"
    yield Check(None, f"{cpu['processor']}, {cpu['threads']} threads, instructions: {listed}")
    if not {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm"} & {*cpu["instructions"]}:
        yield Check(
            None, "no integer dot product (VNNI, AMX): int8 is hardly faster than fp32 here"
        )


def _data() -> Iterator[Check]:
    if not Path("params.yaml").is_file():
        yield Check(
            None, "no params.yaml here: run in the root folder of a study to check its data"
        )
        return
    try:
        study = params.load()
    except UserError as error:
        yield Check(False, str(error))
        return
    elsewhere = []
    for name in study.sources:
        source = study.source(name)
        folder, *_ = source.files(name, study.downloads)
        if Path(f"data/samples/{name}.parquet").is_file():
            yield Check(True, f"data {name}: prepared")
        elif (source.reader or name) in BUNDLED:
            yield Check(True, f"data {name}: included in the libraries")
        elif folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
            yield Check(True, f"data {name}: files in {folder}")
        elif name in study.datasets:
            yield Check(False, f"data {name}: no files in {folder}; {_HOW.format(name)}")
        else:
            elsewhere.append(name)
    if elsewhere:
        yield Check(None, f"data not available: {', '.join(elsewhere)}; {_HOW.format('NAME')}")
