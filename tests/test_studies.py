"""The studies that are kept beside the default can be put in its place."""

from pathlib import Path

import pytest
import yaml

from quantskew.params import load

ROOT = Path(__file__).parents[1]
STUDIES = sorted((ROOT / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_is_legal_and_has_every_section_that_dvc_asks_for(path):
    study = load(path)
    assert all(study.groups_of(dataset) for dataset in study.datasets)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    wanted = {name for stage in stages.values() for name in stage.get("params", ())}
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    for name in wanted:
        at = given
        for part in name.split("."):
            assert part in at, name
            at = at[part]
    assert "/" not in study.source(study.datasets[0]).model_dump_json()  # no path of one machine


def test_there_are_studies():
    assert {"utkface", "imbalanced_mnist"} <= {path.stem for path in STUDIES}
