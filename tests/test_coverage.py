"""A small part of the simulation of ``benchmarks/coverage.py``, with fixed seeds."""

import importlib.util
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage():
    spec = importlib.util.spec_from_file_location("coverage_of_promises", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def small(c):
    return [
        c.Design("2 × 2,370", 0.97, "one", 0.02, 0.05),
        c.Design("UTKFace", 0.8, "none", 0.0, 0.05),
        c.Design("UTKFace", 0.995, "all", 0.05, 0.01),
        c.Design("10 × 100", "unequal", "one", 0.1, 0.2),
        c.Design("10 × 100", 0.97, "none", 0.0, 0.05, seeds=2),
        c.Design("10 × 100", 0.8, "one", 0.05, 0.2, images=10, correlation=0.5),
        c.Seeds(2, 4, 0.01),
        c.Trends(2, 10, 5, 0.8),
        c.Many(100, 0.1),
        c.Scored(100, 2, "more noise", images=5, correlation=0.5),
        c.Scored(100, 10, "1 % surely wrong"),
        c.Scored(100, 1, "1 % surely wrong", images=5, correlation=0.5),
        c.Scored(100, 1, "noise of the same size"),
        c.Sliced(600, 300, "value", 0.05, 0.05),
        c.Files("10 × 200", 0.08, 0.05, 2),
        c.Files("10 × 200", 0.04, 0.0, 2),
        c.Parity("10 × 100", 0.05, 0.1, 10, 0.5),
    ]


def test_promises_are_kept(coverage):
    for number, cell in enumerate(small(coverage)):
        quick = coverage.Design | coverage.Many
        samples = 300 if isinstance(cell, quick) else 100
        for row in coverage.measure(cell, samples, number):
            assert not coverage.falls_short(row, slack=3), (cell, row)


def test_the_simulation_sees_what_does_not_hold(coverage):
    """Persons that count as many, and groups that count as networks, err far too often."""
    cell = coverage.Design("10 × 100", 0.8, "none", 0.0, 0.2, images=10, correlation=0.5)
    rows = {row.promise: row for row in coverage.measure(cell, 300, 0)}
    assert rows["change of a group, persons ignored"].measured < 0.85
    assert rows["exchange test, persons ignored, errs"].measured > 0.15
    rows = {row.promise: row for row in coverage.measure(coverage.Trends(2, 10, 5, 0.8), 100, 0)}
    assert rows["Page's test, groups as units, errs"].measured > 0.3


def test_a_stopped_run_goes_on(coverage, tmp_path, monkeypatch, capsys):
    cells = [coverage.Many(20, 0.1), coverage.Many(20, 0.5)]
    monkeypatch.setattr(coverage, "designs", lambda: iter(cells))
    arguments = ["coverage.py", "--folder", str(tmp_path), "--samples", "50", "--processes", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(coverage, "Pool", InThisProcess)
    coverage.main()
    (folder,) = tmp_path.iterdir()
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(times) == 2
    next(iter(times)).unlink()
    coverage.main()
    again = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert len(again) == 2
    assert sum(again[path] == times[path] for path in times) == 1
    assert "2 cells; 0 fall short" in capsys.readouterr().out


class InThisProcess:
    def __init__(self, *_, **__):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    imap_unordered = staticmethod(map)
