"""The table ``scores`` of a study, from the logits that it keeps."""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax
from sklearn.metrics import log_loss

from quantskew import tables
from quantskew.analysis.scored import read_logits, read_scores, score_cells, score_point
from quantskew.analysis.study import Study
from quantskew.data.groups import Groups
from quantskew.data.storing import Prepared
from quantskew.fairness.score_catalogue import SCORES, score
from quantskew.layout import predictions_path
from quantskew.names import Point, Variant

N, SEEDS = 600, (0, 1)
FP32, PTQ, ALIKE = (Point("d", "m", *of) for of in (("fp32", 32), ("ptq", 4), ("ptq", 8)))


@pytest.fixture
def points(tmp_path, monkeypatch):
    """Logits of three points; at 4 bits those of the samples with much ink lose their size."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=N)
    ids = [f"{number:04}" for number in range(N)]
    much = np.arange(N) % 2 == 1
    people = pd.DataFrame({"id": ids[::-1], "split": "test", "label": labels[::-1]})
    people["ink"] = np.where(much, "much", "little")[::-1]
    notes = {"classes": json.dumps([*"abc"]), "orders": "{}", "shape": "[1, 1, 1]"}
    prepared = Prepared(
        people, np.zeros((1, 1, 1, 1), np.uint8), np.zeros(N, int), pd.DataFrame(), notes
    )
    prepared.write(tmp_path / "data/samples/d.parquet")
    paths = {}
    for seed in SEEDS:
        logits = 4 * np.eye(3)[labels] + rng.normal(size=(N, 3))
        for point in (FP32, PTQ, ALIKE):
            own = np.where((much & (point == PTQ))[:, None], logits / 8, logits)
            variant = Variant(seed=seed, **point._asdict())
            rows = pd.DataFrame({"id": ids, "label": labels, "prediction": own.argmax(1)})
            rows["logits"] = list(own.astype(np.float32))
            path = predictions_path(tmp_path, variant)
            tables.write("predictions", variant.name(rows), path)
            paths.setdefault(point, {})[seed] = path
    return paths


def scored(points, tmp_path):
    study = Study(
        datasets=("d",), models=("m",), bits=(8, 4), seeds=SEEDS, methods={}, reference="ptq",
        groups=Groups(by={"d": ("ink",)}),
    )  # fmt: skip
    folders = {}
    for point, cell in score_cells(study, "d", points).items():
        folders[point] = tmp_path / f"{point.method}{point.bits}"
        folders[point].mkdir()
        score_point(folders[point], **cell.arguments)
    rows = read_scores(folders, study.statistics)
    tables.write("scores", rows, tmp_path / "scores.parquet")
    return tables.read("scores", tmp_path / "scores.parquet").to_pandas()


def test_who_lost_is_named_although_no_answer_changed(points, tmp_path):
    rows = scored(points, tmp_path)
    assert [*SCORES][:5] == ["nll", "brier", "calibration_error", "auc", "recall"]
    brier = rows.query("score == 'brier'").set_index(["bits", "group"])["verdict"]
    assert brier.to_dict() == {
        (4, "much"): "worse", (4, "little"): "equivalent", (4, "all"): "worse",
        (8, "much"): "equivalent", (8, "little"): "equivalent", (8, "all"): "equivalent",
    }  # fmt: skip
    assert (rows.query("score == 'agreement'")["after"] == 1).all()
    of_all = rows.query("score == 'nll' and group == 'all' and bits == 4").iloc[0]
    ids, labels, _, logits = read_logits(points[PTQ].values())
    assert list(ids) == sorted(ids)
    losses = [log_loss(labels, softmax(one.astype(float), axis=1)) for one in logits]
    assert of_all["after"] == pytest.approx(np.mean(losses))
    table = tables.read("predictions", points[PTQ][1]).to_pandas()
    assert (logits[1] == np.stack(table["logits"])).all()


def test_a_new_score_reaches_the_table(points, tmp_path):
    @score(better="higher", title="probability of the label", span=(0, 1))
    def of_label(outputs):
        """Mean probability of the label."""
        return outputs.of_label

    try:
        rows = scored(points, tmp_path).query("score == 'of_label'")
    finally:
        del SCORES["of_label"]
    assert rows.set_index(["bits", "group"]).loc[(4, "much"), "verdict"] == "worse"
    assert len(rows) == 6


def test_a_network_that_answers_other_samples_is_named(points):
    table = tables.read("predictions", points[PTQ][1]).to_pandas()
    tables.write("predictions", table.iloc[1:], points[PTQ][1])
    with pytest.raises(tables.TableError, match=r"ptq-4bit-seed1.parquet answers other samples"):
        read_logits(points[PTQ].values())


def test_without_a_quantized_network_the_table_is_empty(points, tmp_path):
    assert scored({FP32: points[FP32]}, tmp_path).empty
