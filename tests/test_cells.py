import errno
import gc
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import psutil
import pytest
import torch

from quantskew.architecture import Architecture
from quantskew.engine import cells, compute, fingerprint
from quantskew.engine.cells import Cell, CellError
from quantskew.engine.compute import Compute, cores
from quantskew.errors import UserError
from quantskew.quantization.method import Method

HERE = Compute(where="here")
TWO = Compute(workers=2)


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTSKEW_CELLS", str(tmp_path / "cells"))
    return tmp_path / "cells"


def note(folder: Path, *, text: str, journal: str) -> None:
    with Path(journal).open("a", encoding="utf-8") as file:
        file.write(text + "\n")
    (folder / "out.txt").write_text(text, encoding="utf-8")


def fail_on_three(folder: Path, *, number: int) -> None:
    if number == 3:
        raise ValueError("three is not wanted")
    if number == 4:
        raise SystemExit
    (folder / "out.txt").write_text(str(number), encoding="utf-8")


def go_on(folder: Path, *, journal: str) -> None:
    (folder / f".checkpoint.txt.{len([*folder.iterdir()])}").write_text("half of it")
    checkpoint = folder / "checkpoint.txt"
    seen = checkpoint.read_text() if checkpoint.exists() else ""
    if not seen:
        checkpoint.write_text("half")
        raise RuntimeError("interrupted")
    (folder / "out.txt").write_text(f"after {seen}", encoding="utf-8")


def count_page_faults(folder: Path, *, number: int) -> None:
    def faults() -> int:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(2**20), torch.ones(9 * 2**20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()  # the first makes the pages
    (folder / "faults.txt").write_text(str(faults()), encoding="utf-8")


def count_frozen(folder: Path, *, number: int) -> None:
    (folder / "frozen.txt").write_text(str(gc.get_freeze_count()), encoding="utf-8")


@pytest.mark.skipif(sys.platform != "linux", reason="no fork server")
def test_workers_leave_what_they_share_alone():
    done = cells.run(
        [Cell(str(n), f"{__name__}:count_frozen", number=n) for n in (1, 2)], title="t", compute=TWO
    )
    assert all(int((folder / "frozen.txt").read_text()) > 10_000 for folder in done.values())


def test_a_finished_cell_is_not_done_again(tmp_path):
    journal = tmp_path / "journal"
    work = [Cell(t, f"{__name__}:note", text=t, journal=str(journal)) for t in "ab"]
    first = cells.run(work, title="t", compute=HERE)
    assert (first["b"] / "out.txt").read_text() == "b"
    more = [*work, Cell("c", f"{__name__}:note", text="c", journal=str(journal))]
    cells.run(more, title="t", compute=HERE)
    assert journal.read_text().split() == ["a", "b", "c"]


def test_processes_give_the_same_as_one(tmp_path):
    work = [Cell(str(n), f"{__name__}:fail_on_three", number=n) for n in (1, 2)]
    done = cells.run(work, title="t", compute=TWO)
    assert [(done[n] / "out.txt").read_text() for n in "12"] == ["1", "2"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide themselves")
def test_memory_that_a_cell_frees_is_used_again():
    work = [Cell(str(n), f"{__name__}:count_page_faults", number=n) for n in (1, 2)]
    done = cells.run(work, title="t", compute=TWO)
    assert all(int((folder / "faults.txt").read_text()) < 1000 for folder in done.values())


def test_other_cells_finish_when_one_fails(store):
    work = [Cell(str(n), f"{__name__}:fail_on_three", number=n) for n in (1, 3, 2)]
    with pytest.raises(CellError, match=r"1 of 3 cells failed.*\n.*3: ValueError: three is not"):
        cells.run(work, title="t", compute=HERE)
    assert sorted(p.read_text() for p in store.rglob("out.txt")) == ["1", "2"]


@pytest.mark.parametrize("where", [HERE, TWO])
def test_a_cell_that_exits_has_failed_and_ends_no_stage(store, where):
    work = [Cell(str(n), f"{__name__}:fail_on_three", number=n) for n in (1, 4)]
    with pytest.raises(CellError, match=r"1 of 2 cells failed.*\n.*4: SystemExit"):
        cells.run(work, title="t", compute=where)


def disk_is_full(folder: Path, *, words: str) -> None:
    if words:
        raise RuntimeError(words)
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("words", ["", "I/O error: No space left on device (os error 28)"])
@pytest.mark.parametrize("where", [HERE, TWO])
def test_a_full_disk_ends_the_stage_and_is_no_result_of_a_cell(where, words):
    work = [Cell(str(n), f"{__name__}:disk_is_full", words=words) for n in range(2)]
    work += [Cell("sound", f"{__name__}:fail_on_three", number=1)]
    with pytest.raises((OSError, RuntimeError), match="No space left"):
        cells.attempt(work, title="t", compute=where)


def test_an_interrupted_cell_goes_on_from_its_checkpoint(store):
    cell = Cell("x", f"{__name__}:go_on", journal="")
    with pytest.raises(CellError, match="interrupted"):
        cells.run([cell], title="t", compute=HERE)
    done = cells.run([cell], title="t", compute=HERE)
    assert [p.name for p in done["x"].iterdir()] == ["out.txt"]
    assert (done["x"] / "out.txt").read_text() == "after half"


def test_the_fingerprint_follows_arguments_and_the_content_of_files(tmp_path):
    file = tmp_path / "data"
    file.write_text("one")
    before = Cell("x", f"{__name__}:note", text="a", journal=file).fingerprint()
    assert Cell("another name", f"{__name__}:note", text="a", journal=file).fingerprint() == before
    assert Cell("x", f"{__name__}:note", text="b", journal=file).fingerprint() != before
    file.write_text("two!")
    assert Cell("x", f"{__name__}:note", text="a", journal=file).fingerprint() != before


def test_an_argument_without_identity_is_refused():
    with pytest.raises(TypeError, match="cannot depend on a object"):
        Cell("x", f"{__name__}:note", text=object(), journal="").fingerprint()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package in which one module imports another, and a third stands apart."""
    name = f"made_{os.getpid()}_{tmp_path.name[-8:]}".replace("-", "_")
    root = tmp_path / name
    root.mkdir()
    (root / "__init__.py").write_text("")
    (root / "apart.py").write_text("X = 1\n")
    (root / "base.py").write_text("def double(x):\n    return 2 * x\n")
    (root / "top.py").write_text(f"from {name} import base\n\nY = base.double(2)\n")
    (root / "near.py").write_text("from . import base\nfrom .base import double\n")
    monkeypatch.syspath_prepend(tmp_path)

    def code(module: str = "top") -> str:
        for function in (fingerprint.code_hash, fingerprint._read):
            function.cache_clear()
        return fingerprint.code_hash(f"{name}.{module}")

    return root, code


def test_comments_and_docstrings_do_not_count(package):
    root, code = package
    before = code()
    text = '''
        """A module."""

        def double(x):
            """Twice x."""
            # a comment
            return 2 * x
    '''
    (root / "base.py").write_text(textwrap.dedent(text))
    (root / "apart.py").write_text("X = 2\n")
    assert code() == before


def test_what_was_read_of_code_is_kept_for_the_next_stage(package, tmp_path, monkeypatch):
    root, code = package
    monkeypatch.setenv("QUANTSKEW_CELLS", str(tmp_path))
    kept, before = tmp_path / "code.json", code()
    known = json.loads(kept.read_text(encoding="utf-8"))
    assert {f"{root.name}.top", f"{root.name}.base"} <= known.keys()

    assert code() == before
    known[f"{root.name}.base"][1] = "told otherwise"
    kept.write_text(json.dumps(known), encoding="utf-8")
    assert code() != before  # it is read
    (root / "base.py").write_text("def double(x):\n    return 3 * x\n")
    changed = code()
    kept.write_text("{", encoding="utf-8")
    assert code() == changed != before  # and worked out again of other code, or a broken file


def test_code_that_changes_while_a_stage_runs_is_seen_by_the_next(package, tmp_path, monkeypatch):
    root, code = package
    monkeypatch.setenv("QUANTSKEW_CELLS", str(tmp_path))
    before = code("near")
    (root / "base.py").write_text("def double(x):\n    return 3 * x\n")
    fingerprint.code_hash(f"{root.name}.top")  # another cell of the same stage, which has read it
    assert code("near") != before


@pytest.mark.parametrize("module", ["top", "near"])
def test_the_code_that_is_imported_counts(package, module):
    root, code = package
    before = code(module)
    (root / "base.py").write_text("def double(x):\n    return 3 * x\n")
    assert code(module) != before


def test_modules_that_a_package_finds_in_its_own_folder_count(package):
    root, code = package
    (root / "__init__.py").write_text("import pkgutil\nFOUND = [*pkgutil.iter_modules(__path__)]\n")
    (root / "seen.py").write_text(f"import {root.name}\n")
    before = code("seen")
    (root / "apart.py").write_text("X = 2\n")
    assert code("seen") != before
    found = fingerprint.imports("quantskew.analysis.run")
    assert "quantskew.analysis.figures.trade_off" in found
    found = fingerprint.imports("quantskew.deployment.shipping")
    assert "quantskew.deployment.runtimes.onnx_runtime" in found


def use_further(folder: Path, *, number: int) -> None:
    text = f"{sys.modules['further_module'].X} {number}"
    (folder / "out.txt").write_text(text, encoding="utf-8")


@pytest.mark.parametrize("compute", [HERE, TWO], ids=["here", "processes"])
def test_a_cell_imports_further_modules_where_it_runs_and_counts_their_code(
    compute, tmp_path, monkeypatch
):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "further_module", raising=False)
    module, names = tmp_path / "further_module.py", set()
    work = [
        Cell(str(number), f"{__name__}:use_further", modules=["further_module"], number=number)
        for number in (1, 2)
    ]
    for number in (1, 2):
        module.write_text(f"X = {number}\n")
        for function in (fingerprint.code_hash, fingerprint._read, fingerprint._specification):
            function.cache_clear()
        names |= {Cell("x", f"{__name__}:use_further", modules=["further_module"]).fingerprint()}
    assert len(names) == 2
    done = cells.run(work, title="t", compute=compute)
    assert [(done[name] / "out.txt").read_text() for name in "12"] == ["2 1", "2 2"]
    monkeypatch.delitem(sys.modules, "further_module", raising=False)


def test_two_cells_of_one_name_are_refused():
    work = [Cell("x", f"{__name__}:note", text=t, journal="") for t in "ab"]
    with pytest.raises(ValueError, match="share a name"):
        cells.run(work, title="t", compute=HERE)


def test_analysis_is_no_part_of_training():
    found = fingerprint.imports("quantskew.baselines")
    assert "quantskew.training.loop" in found
    assert "quantskew.models" in found
    assert not [m for m in found if "analysis" in m or "fairness" in m or "quantization" in m]


def test_a_network_of_ones_own_counts_with_its_code_and_its_weights(tmp_path, monkeypatch):
    code, weights = tmp_path / "own_network.py", tmp_path / "w.safetensors"
    code.write_text("def make(): return 1")
    weights.write_text("one")
    monkeypatch.syspath_prepend(tmp_path)
    own = Architecture(factory="own_network:make", checkpoint=str(weights), mean=(0.0,), std=(1.0,))

    def name() -> str:
        for function in (fingerprint.code_hash, fingerprint._read):
            function.cache_clear()
        return Cell("x", f"{__name__}:note", architecture=own).fingerprint()

    names = {name()}
    weights.write_text("other")
    names.add(name())
    code.write_text("def make(): return 2")
    names.add(name())
    assert len(names) == 3
    weights.unlink()
    with pytest.raises(UserError, match=r"w.safetensors: no such file"):
        name()


def test_an_own_function_counts_with_its_code(tmp_path, monkeypatch):
    code = tmp_path / "own_function.py"
    monkeypatch.syspath_prepend(tmp_path)
    names = set()
    for number in (1, 2):
        code.write_text(f"def repair(network, **given): return {number}")
        for function in (fingerprint.code_hash, fingerprint._read):
            function.cache_clear()
        method = Method(function="own_function:repair")
        names.add(Cell("x", f"{__name__}:note", method=method).fingerprint())
    assert len(names) == 2


@pytest.mark.parametrize("helper", ["own_helper.py", "helpers/own_helper.py"])
def test_what_an_own_module_imports_from_the_study_counts(tmp_path, monkeypatch, helper):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helpers").mkdir()
    module = helper.removesuffix(".py").replace("/", ".")
    (tmp_path / "own_caller.py").write_text(f"import torch\nfrom {module} import number\n")
    names = set()
    for number in (1, 2):
        (tmp_path / helper).write_text(f"number = {number}\n")
        for function in (fingerprint.code_hash, fingerprint._read, fingerprint._specification):
            function.cache_clear()
        names.add(fingerprint.code_hash("own_caller"))
    assert len(names) == 2
    assert fingerprint.imports("own_caller") == {"own_caller", module}


def test_the_fingerprint_names_the_threads_of_a_cell():
    cell = Cell("x", f"{__name__}:note", text="a", journal="")
    assert cell.fingerprint() == cell.fingerprint(1) != cell.fingerprint(2)


def test_naming_a_cell_imports_nothing_of_what_it_runs():
    program = """
import sys
from quantskew.engine.cells import Cell
assert Cell("x", "quantskew.methods:quantize").fingerprint()
from quantskew.engine.fingerprint import imports
assert "quantskew.models" in imports("quantskew.methods")
assert not {"torch", "timm", "quantskew.models"} & set(sys.modules), "imported"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def wait_the_first_time(folder: Path) -> None:
    checkpoint = folder / "checkpoint.txt"
    if not checkpoint.exists():
        checkpoint.write_text("half", encoding="utf-8")
        time.sleep(300)
    (folder / "out.txt").write_text("went on", encoding="utf-8")


@pytest.mark.parametrize(
    ("where", "how"),
    [
        ("processes", signal.SIGINT),
        ("processes", signal.SIGKILL),
        pytest.param("ray", signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_workers_end_with_the_stage_and_the_next_run_goes_on(store, where, how, monkeypatch):
    if where == "ray":
        pytest.importorskip("ray")
    journal = store.parent / "journal"
    program = f"""
import signal
from quantskew.engine import cells, command
from quantskew.engine.compute import Compute

def main():
    work = [cells.Cell("x", "test_cells:wait_the_first_time"),
            cells.Cell("y", "test_cells:note", text="y", journal={str(journal)!r})]
    cells.run(work, title="t", compute=Compute(where={where!r}, workers=2))

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    command.run(main)
"""
    script, told = store.parent / "stage.py", store.parent / "told"
    script.write_text(program, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
    with told.open("w") as stderr:
        stage = subprocess.Popen([sys.executable, script], cwd=store.parent, stderr=stderr)
    # one cell is done, one under way
    done = under_way = False
    while not (done and under_way):
        assert stage.poll() is None, told.read_text()
        time.sleep(0.05)
        done = any(not path.parent.suffix for path in store.glob("??/*/out.txt"))
        under_way = any(store.glob("??/*.part/checkpoint.txt"))
    started = psutil.Process(stage.pid).children(recursive=True)
    assert started
    stage.send_signal(how)
    stage.wait(60)
    _, left = psutil.wait_procs(started, 60)
    assert [process for process in left if process.status() != psutil.STATUS_ZOMBIE] == []
    if how == signal.SIGINT:
        assert told.read_text().endswith("the next run goes on from them\n")
    work = [
        Cell("x", "test_cells:wait_the_first_time"),
        Cell("y", "test_cells:note", text="y", journal=str(journal)),
    ]
    done = cells.run(work, title="t", compute=HERE)
    assert (done["x"] / "out.txt").read_text() == "went on"
    assert journal.read_text().split() == ["y"]


def device(folder: Path, *, number: int) -> None:
    time.sleep(0.5)  # so that the other worker has its turn
    (folder / "out.txt").write_text(os.environ["CUDA_VISIBLE_DEVICES"], encoding="utf-8")


def test_processes_are_dealt_out_to_the_gpus(store, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-x")
    assert Compute(gpus=0.5).at_once() == min(4, cores())
    assert Compute(gpus=1, cpus=1).at_once() == min(2, cores())
    work = [Cell(str(n), f"{__name__}:device", number=n) for n in range(6)]
    cells.run(work, title="t", compute=TWO)
    assert {path.read_text() for path in store.rglob("out.txt")} == {"3", "GPU-x"}


def killed(folder: Path, *, times: int) -> None:
    with (folder / "checkpoint.txt").open("a", encoding="utf-8") as file:
        file.write("x")
    if (folder / "checkpoint.txt").stat().st_size <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "out.txt").write_text(str(times), encoding="utf-8")


def test_a_cell_whose_worker_is_killed_is_tried_again_and_costs_no_other(store):
    work = [Cell(str(n), f"{__name__}:killed", times=n) for n in (0, 1, 9)]
    work += [Cell(f"a{n}", f"{__name__}:fail_on_three", number=10 + n) for n in range(6)]
    told = r"1 of 9 cells failed.*\n  9: its process ended 3 times: SIGKILL.*\n    times=9"
    with pytest.raises(CellError, match=told):
        cells.run(work, title="t", compute=TWO)
    assert len([*store.rglob("out.txt")]) == 8
    (begun,) = (path.stat().st_size for path in store.rglob("checkpoint.txt"))
    assert begun in (2, 3)  # the death of 1 may take 9 with it before it has begun


def test_the_end_of_the_fork_server_while_it_starts_a_worker_costs_no_cell(store, monkeypatch):
    submit, asked = ProcessPoolExecutor.submit, []

    def while_it_ends(pool, *task):
        asked.append(time.monotonic())
        if asked[-1] - asked[0] < 1:  # for as long it is taken for alive
            raise ConnectionRefusedError
        return submit(pool, *task)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", while_it_ends)
    work = [Cell(str(n), f"{__name__}:fail_on_three", number=n) for n in (0, 1, 2, 5)]
    assert len(cells.run(work, title="t", compute=TWO)) == 4


def test_a_worker_that_ends_while_others_are_started_costs_no_cell(store, monkeypatch):
    submit, asked = ProcessPoolExecutor.submit, []

    def once(pool, *task):
        asked.append(task)
        if len(asked) == 1:
            raise BrokenProcessPool
        return submit(pool, *task)

    monkeypatch.setattr(ProcessPoolExecutor, "submit", once)
    work = [Cell(str(n), f"{__name__}:fail_on_three", number=n) for n in (0, 1, 2, 5)]
    assert len(cells.run(work, title="t", compute=TWO)) == 4


def test_processes_share_out_the_cores(monkeypatch):
    monkeypatch.setattr(compute, "cores", lambda: 8)
    monkeypatch.setattr(compute, "gpus", list)
    assert Compute().at_once() == 8
    assert Compute(cpus=4).at_once() == 2
    assert Compute(cpus=4, workers=3).at_once() == 3


@pytest.mark.parametrize(
    ("what", "printed"),
    [
        ("get_context('spawn').Lock().__setstate__((0, 1, 1, '/gone'))", False),
        ("open('gone')", True),
        ("class Own:\n def __setstate__(self, state): open('gone')\nOwn().__setstate__(0)", True),
    ],
)
def test_a_worker_whose_stage_is_gone_says_nothing(what, printed):
    code = f"import quantskew.engine.frozen\nfrom multiprocessing import get_context\n{what}"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ("FileNotFoundError" in ended.stderr) == printed
