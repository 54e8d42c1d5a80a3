"""What stages plan can be run: every function is there and takes the arguments that it is given."""

import importlib
import inspect
import re
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from quantskew import params, variants
from quantskew.deployment import shipped
from quantskew.engine.cells import Done
from quantskew.evaluation import collect

NAMED = {
    name
    for path in (ROOT / "src").rglob("*.py")
    for name in re.findall(r'"(quantskew\.[\w.]+:\w+)"', path.read_text(encoding="utf-8"))
}


def function(name: str):
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("name", sorted(NAMED))
def test_the_function_of_a_cell_is_there(name):
    first, *others = inspect.signature(function(name)).parameters.values()
    assert first.name == "folder"
    assert {parameter.kind for parameter in others} == {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.slow
def test_the_arguments_of_planned_cells_fit_their_functions(project, tmp_path, monkeypatch):
    shutil.copytree(project.folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    study = params.load(project.folder / "params.yaml")
    planned = []

    def plan_only(cells, **_):
        for cell in cells:
            inspect.signature(function(cell.function)).bind(Path("folder"), **cell.arguments)
            assert len(cell.fingerprint()) == 32
            planned.append(cell.function)
        return Done({}, {cell.name: "not done" for cell in cells})

    for module in (variants, shipped, collect):
        monkeypatch.setattr(module, "attempt", plan_only)
    where = study.datasets[0], study.models[0]
    collect.evaluate_all(study, *where)
    shipped.ship_all(study, *where)
    variants.make_variants(study, "quantize", *where)
    variants.make_variants(study, "mitigate", *where)
    variants.make_baselines(study, *where)
    assert {*planned} == {name for name in NAMED if ".analysis." not in name}
