"""Slices: what nobody listed is found, and what is not there is not."""

import json

import numpy as np
import pandas as pd
import pytest

from quantskew import cli, tables
from quantskew.analysis.slicing import slices_of_study, study_features
from quantskew.analysis.study import Study
from quantskew.data.groups import Groups
from quantskew.data.storing import Prepared
from quantskew.errors import UserError
from quantskew.fairness.slices import (
    SliceError,
    clusters,
    describe,
    find_slices,
    image_properties,
)
from quantskew.layout import NETWORKS, empty, folder_of, predictions_path
from quantskew.names import Variant


def drawn(seed, n=1500, hidden=300, loss=0.10, everyone=0.0):
    """Draw features of which one hides who loses; flips of 4 % go either way."""
    rng = np.random.default_rng(seed)
    camera = np.where(np.arange(n) < hidden, "old", rng.choice(["phone", "web", "film"], n))
    features = pd.DataFrame(
        {
            "camera": camera,
            "site": rng.choice([*"abcd"], n),
            "brightness": rng.random(n),
            "contrast": rng.random(n),
            "age": rng.integers(0, 100, n),
        }
    )
    labels = rng.integers(10, size=n)
    answers = np.where(rng.random((2, n)) < 0.85, labels, (labels + 1) % 10)
    before, after = np.where(rng.random(n) < 0.16, answers, answers[0])
    lost = rng.random(n) < np.where(camera == "old", loss, everyone) / 0.85
    return features, before, np.where(lost, (labels + 1) % 10, after), labels


def found(rows, alpha=0.05):
    return rows.loc[rows["fdr"] <= alpha, "slice"].tolist()


def test_a_hidden_attribute_that_loses_ten_points_is_found():
    """With 300 images; of 40 draws at least 80 %."""
    hits = [
        any("camera old" in text for text in found(find_slices(*drawn(seed), seed=seed)))
        for seed in range(40)
    ]
    assert np.mean(hits) >= 0.8


def test_exchanged_networks_have_no_slices():
    any_found = 0
    for seed in range(60):
        features, before, after, labels = drawn(seed, loss=0.1)
        swap = np.random.default_rng(seed).random(len(labels)) < 0.5
        before, after = np.where(swap, after, before), np.where(swap, before, after)
        any_found += bool(found(find_slices(features, before, after, labels, seed=seed)))
    assert any_found <= 6  # 3 are expected of 5 %


def test_a_loss_that_all_share_is_no_slice():
    any_found = sum(
        bool(found(find_slices(*drawn(seed, loss=0.1, everyone=0.1), seed=seed)))
        for seed in range(40)
    )
    assert any_found <= 5


def test_the_interval_is_that_of_the_tested_half_and_the_rest_is_named():
    features, before, after, labels = drawn(3, n=6000, hidden=2000, loss=0.2)
    rows = find_slices(features, before, after, labels)
    first = rows.iloc[0]
    assert first["slice"] == "camera old"
    assert first["verdict"] == "worse"
    assert first["n"] == pytest.approx(1000, abs=100)
    assert first["low"] < -0.2 < first["high"] < 0
    assert first["after"] - first["before"] == pytest.approx(first["change"])
    assert abs(first["rest"]) < 0.02


def test_persons_stay_in_one_half_and_count_once():
    """Ten persons with 200 images each tell as much as ten images."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(40), 50)
    labels = rng.integers(2, size=2000)
    harmed = person < 10
    after = np.where(harmed & np.isin(person % 10, [0, 3, 6]), 1 - labels, labels)
    features = pd.DataFrame({"camera": np.where(harmed, "old", "new")})
    alone = find_slices(features, labels, after, labels)
    assert "camera old" in found(alone)
    together = find_slices(features, labels, after, labels, person, minimum=3)
    assert found(together) == []
    with_few = find_slices(features, labels, after, labels, person)
    assert with_few.empty  # fewer than 30 persons of each kind in a half
    assert [*with_few] == [*alone]


def test_seeds_are_taken_together():
    features, before, after, labels = drawn(0)
    one = find_slices(features, before, after, labels)
    two = find_slices(features, np.stack([before] * 2), np.stack([after] * 2), labels)
    assert one["slice"].tolist() == two["slice"].tolist()
    assert one["change"].to_numpy() == pytest.approx(two["change"].to_numpy())


def test_what_describes_samples():
    features = pd.DataFrame(
        {
            "age": [*range(98), np.nan, np.nan],
            "kind": ["a"] * 60 + ["b"] * 40,
            "night": [True, False] * 50,
            "id": [f"sample {number}" for number in range(100)],
            "constant": 1.0,
        }
    )
    parts = {one.text: int(one.mask.sum()) for one in describe(features)}
    assert parts == {
        "age 0 to 24": 25, "age 24 to 48": 24, "age 48 to 73": 24, "age 73 to 97": 25,
        "age unknown": 2, "kind a": 60, "kind b": 40, "night True": 50, "night False": 50,
    }  # fmt: skip
    with pytest.raises(SliceError, match="no column divides the samples: id, constant have"):
        describe(features[["id", "constant"]])


def test_samples_that_do_not_fit_are_refused():
    features, before, after, labels = drawn(0, n=400)
    with pytest.raises(SliceError, match="399 rows of features, 400 labels"):
        find_slices(features.iloc[1:], before, after, labels)
    with pytest.raises(SliceError, match=r"answers \(1, 400\) and \(2, 400\)"):
        find_slices(features, before, np.stack([after, after]), labels)


def test_clusters_treat_both_networks_alike():
    rng = np.random.default_rng(0)
    place = np.repeat(np.eye(3) * 6, 50, axis=0)
    before, after = place + rng.normal(size=(2, 150, 3))
    codes = clusters(before, after, 3)
    assert (codes == clusters(after, before, 3)).all()
    assert [np.unique(codes[start : start + 50]).size for start in (0, 50, 100)] == [1, 1, 1]
    with pytest.raises(SliceError, match="finite"):
        clusters([[-np.inf, 0.0]], [[0.0, 1.0]])


def test_properties_of_images():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 20, 30), dtype=np.uint8)
    smooth = np.repeat(np.repeat(noise[:, ::5, ::5], 5, 1), 5, 2)
    dark, gray = noise // 4, noise[0]
    rows = image_properties([noise, smooth, dark, gray, gray[None]])
    luma = np.einsum("c,chw->hw", [0.299, 0.587, 0.114], noise / 255)
    assert rows.loc[0, ["brightness", "contrast"]].tolist() == pytest.approx(
        [luma.mean(), luma.std()]
    )
    padded = np.pad(luma, 1, mode="edge")
    second = padded[:-2, 1:-1] + padded[2:, 1:-1] + padded[1:-1, :-2] + padded[1:-1, 2:] - 4 * luma
    assert rows.loc[0, "sharpness"] == pytest.approx(second.var())
    assert rows["sharpness"].iloc[1] < rows["sharpness"].iloc[0] / 2
    assert rows["brightness"].iloc[2] < 0.3
    assert rows.iloc[3].tolist() == pytest.approx(rows.iloc[4].tolist())
    assert rows["pixels"].tolist() == [600] * 5
    with pytest.raises(SliceError, match="image 0 is float64"):
        image_properties(np.zeros((1, 8, 8)))


N = 800
STUDY = Study(
    datasets=("d",), models=("m",), bits=(8, 4), seeds=(0, 1), methods={}, reference="ptq",
    groups=Groups(by={"d": ("site",)}),
)  # fmt: skip


@pytest.fixture
def _study(tmp_path, monkeypatch):
    """Write a study whose network loses the dark images at 4 bits; no attribute says which."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=N)
    dark = rng.random(N) < 0.25
    pixels = rng.integers(100, 200, (N, 1, 6, 6))
    pixels[dark] -= 80
    ids = np.array([f"{number:04}" for number in range(N)])
    sides = np.where(np.arange(N) < 10, "train", "test")
    people = pd.DataFrame({"id": ids, "split": sides, "label": labels})
    people["site"] = rng.choice([*"ab"], N)
    order = people.sort_values(["split", "id"]).index.to_numpy()
    notes = {"classes": json.dumps([*"abc"]), "orders": "{}", "shape": "[1, 6, 6]"}
    people = people.loc[order].reset_index(drop=True)
    Prepared(people, pixels.astype(np.uint8), order, pd.DataFrame(), notes).write(
        tmp_path / "data/samples/d.parquet"
    )
    made, test = {folder_of(stage, "d", "m"): [] for stage in NETWORKS}, sides == "test"
    for seed in STUDY.seeds:
        for method, bits in (("fp32", 32), ("ptq", 4)):
            variant = Variant("d", "m", seed, method, bits)
            row = {**variant._asdict(), "base": "fp32", "file": "f", "bytes": 1}
            made[folder_of("train" if bits == 32 else "quantize", "d", "m")].append(
                row | {"images_trained": 0}
            )
            lost = dark & (bits == 4) & (rng.random(N) < 0.4)
            logits = 4 * np.eye(3)[np.where(lost, (labels + 1) % 3, labels)]
            logits += 0.5 * rng.normal(size=logits.shape)
            rows = pd.DataFrame({"id": ids, "label": labels, "prediction": logits.argmax(1)})
            rows["logits"] = list(logits.astype(np.float32))
            path = predictions_path(folder_of("evaluate", "d", "m"), variant)
            tables.write("predictions", variant.name(rows[test]), path)
    for folder, rows in made.items():
        listed = pd.DataFrame(rows) if rows else empty("variants")
        tables.write("variants", listed, tmp_path / folder / "variants.parquet")


@pytest.mark.usefixtures("_study")
def test_a_study_names_the_images_that_it_lost():
    title, rows = slices_of_study(STUDY)
    assert title == "d m ptq-4bit against fp32"
    assert rows.iloc[0]["slice"].startswith("brightness 0.2")
    assert rows.iloc[0]["verdict"] == "worse"
    assert len(slices_of_study(STUDY, variant="ptq-4bit-seed1")[1])
    with pytest.raises(UserError, match=r"no variant 'ptq-5bit' .*did you mean 'ptq-4bit'"):
        slices_of_study(STUDY, variant="ptq-5bit")
    with pytest.raises(UserError, match="no dataset 'e': there are d"):
        slices_of_study(STUDY, dataset="e")
    given = STUDY.model_copy(update={"datasets": ("d", "e"), "answers": {"m": "d"}})
    with pytest.raises(UserError, match="m answers d, and not e"):
        slices_of_study(given, dataset="e", model="m")


@pytest.mark.usefixtures("_study")
def test_features_of_a_study_are_in_the_order_of_the_ids(tmp_path):
    ids = np.array(["0700", "0020"])
    path = tmp_path / "data/samples/d.parquet"
    rows = study_features(path, ids)
    whole = study_features(path, np.array([f"{number:04}" for number in range(10, N)]))
    pd.testing.assert_frame_equal(rows, whole.iloc[[690, 10]].reset_index(drop=True))


@pytest.mark.usefixtures("_study")
def test_the_command_prints_them(monkeypatch, capsys):
    class Params:
        def judged(self):
            return STUDY

    monkeypatch.setattr("quantskew.params.load", Params)
    with pytest.raises(SystemExit) as status:
        cli.main(["slices"])
    assert status.value.code == 0
    printed = capsys.readouterr().out
    assert "d m ptq-4bit against fp32" in printed
    assert "worse" in printed


def test_samples_without_a_unit_are_units_of_their_own():
    features, before, after, labels = drawn(0)
    units = np.array([f"u{at}" for at in range(len(labels))], object)
    alone = find_slices(features, before, after, labels, units)
    units[500:] = None
    pd.testing.assert_frame_equal(find_slices(features, before, after, labels, units), alone)


def test_parts_of_a_number_have_names_of_their_own():
    years = pd.DataFrame({0: np.arange(1980, 2020), "flat": np.linspace(1.0001, 1.0002, 40)})
    texts = [one.text for one in describe(years)]
    assert len({*texts}) == 8
    assert texts[0] == "0 1.98e+03 to 1.99e+03"
