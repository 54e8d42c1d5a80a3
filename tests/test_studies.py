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


def test_the_keys_for_a_gpu_make_a_legal_study_of_whole_networks(tmp_path):
    """Those that the head of the file gives, put in their places, at every width."""
    text = (ROOT / "studies/footing.yaml").read_text(encoding="utf-8")
    keys = [line[4:] for line in text.splitlines() if line.startswith("#   ")]
    given = yaml.safe_load(text) | yaml.safe_load("\n".join(k for k in keys if ": " in k))
    for method in (given["methods"] | given["mitigations"]).values():
        if method.get("training") == "qat":
            method.pop("bits", None)
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(given), encoding="utf-8")
    study, small = load(path), load(ROOT / "studies/footing.yaml")
    assert set(study.models) == {"resnet18", "mobilenetv2", "vit_small"}
    assert study.training.epochs > small.training.epochs
    arms = {name for name, one in study.mitigations.items() if one.bits is None}
    assert {"importance_max_fair", "learned_fair", "fair_qat"} <= arms
    assert study.statistics == small.statistics
