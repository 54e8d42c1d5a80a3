import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quantskew import tables
from quantskew.analysis import effects
from quantskew.analysis.study import Statistics
from quantskew.data.groups import Grouping, groupings
from quantskew.data.storing import Prepared
from quantskew.fairness.parity import Answers
from quantskew.layout import predictions_path
from quantskew.names import Point, Variant
from quantskew.params import parse
from quantskew.schemas import POINT, TABLES, VARIANT
from quantskew.tables import TableError


def rows(n: int) -> pd.DataFrame:
    """Answers of three methods, two seeds, to ``n`` samples."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=n)
    parts = []
    for method, bits in (("fp32", 32), ("ptq", 8), ("ptq", 4)):
        for seed in (3, 1):
            predicted = rng.integers(4, size=n)
            frame = pd.DataFrame({"id": [f"{i:05d}" for i in range(n)], "label": labels})
            parts.append(
                frame.assign(
                    dataset="d", model="m", seed=seed, method=method, bits=bits,
                    prediction=predicted, logits=list(np.eye(4, dtype=np.float32)[predicted]),
                )
            )  # fmt: skip
    return pd.concat(parts)


def write(written: pd.DataFrame, folder: Path) -> dict[Point, dict[int, Path]]:
    """Write a table for each network; return their paths by point and seed."""
    paths = {}
    for key, part in written.groupby(list(VARIANT)):
        variant = Variant(*key)
        path = predictions_path(folder, variant)
        tables.write("predictions", part, path)
        paths.setdefault(effects.point_of(variant), {})[variant.seed] = path
    return dict(sorted(paths.items()))


def test_predictions_of_all_networks_are_the_table_pivoted(tmp_path):
    written = rows(200)
    found, ids = effects.read_predictions(write(written, tmp_path), 4)
    assert found.seeds == [1, 3]
    assert found.n_classes == 4
    assert [*found.predicted] == sorted(found.predicted)
    for key, part in written.groupby(list(POINT)):
        wanted = part.pivot(index="seed", columns="id", values="prediction")
        assert (found.predicted[key] == wanted.to_numpy()).all()
        assert [*ids] == [*wanted.columns]
    labels = written.drop_duplicates("id").set_index("id")["label"]
    assert (found.labels == labels.loc[ids]).all()


def test_a_network_that_answers_other_samples_is_named(tmp_path):
    paths = write(rows(5).iloc[:-1], tmp_path)
    with pytest.raises(TableError, match=r"ptq-4bit-seed1.parquet answers other samples than"):
        effects.read_predictions(paths, 4)


def test_a_table_written_in_parts_is_the_table_written_whole(tmp_path):
    written = rows(5)
    tables.write("predictions", written, tmp_path / "whole.parquet")
    parts = [part for _, part in written.groupby(list(VARIANT))]
    tables.write("predictions", iter(parts), tmp_path / "parts.parquet")
    assert tables.read("predictions", tmp_path / "parts.parquet").equals(
        tables.read("predictions", tmp_path / "whole.parquet")
    )
    with pytest.raises(TableError, match="comes after"):
        tables.write("predictions", reversed(parts), tmp_path / "parts.parquet")


def test_a_comparison_of_its_own_is_that_of_all_and_reads_no_image(tmp_path):
    written = rows(300)
    paths = write(written, tmp_path)
    ids = sorted(written["id"].unique())
    labels = written.drop_duplicates("id").set_index("id").loc[ids, "label"].to_numpy()
    people = pd.DataFrame({"id": ids[::-1], "split": "test", "label": labels[::-1]})
    people["ink"] = np.where(np.arange(300) % 3, "much", "little")
    notes = {"classes": json.dumps([*"abcd"]), "orders": "{}", "shape": "[1, 1, 1]"}
    pixels = np.zeros((1, 1, 1, 1), np.uint8)
    nothing = np.zeros(300, int)
    Prepared(people, pixels, nothing, pd.DataFrame(), notes).write(tmp_path / "samples.parquet")
    read, _ = effects.read_predictions(paths, 4)
    baseline = paths[Point("d", "m", "fp32", 32)]
    study = parse(
        {"datasets": ["d"], "models": ["m"], "bits": [8, 4], "seeds": [1, 3],
         "methods": {"ptq": {}}, "sources": {"d": {"reader": "digits"}},
         "statistics": {"draws": 100},
         "groups": {"by": {"d": ["ink", "label"]}}}
    ).judged()  # fmt: skip
    attributes = people.assign(label=pd.Categorical.from_codes(people["label"], [*"abcd"]))
    attributes = attributes.set_index("id").loc[ids].reset_index()
    whole = effects.analyze(read, groupings(attributes, ["ink", "label"], study.groups), study)
    folders = []
    for method, bits in (("fp32", 32), ("ptq", 8), ("ptq", 4)):
        for spec in ("ink", "label"):
            folders.append(tmp_path / f"{method}{bits}{spec}")
            effects.compare_point(
                folders[-1],
                answers=[*paths[Point("d", "m", method, bits)].values()],
                references={"fp32": [*baseline.values()]} if bits < 32 else {},
                samples=tmp_path / "samples.parquet",
                grouping=spec,
                groups=study.groups.needed_by(spec),
                statistics=study.statistics,
                retrained=False,
                unit=None,
            )
    parts = effects.joined(effects.read_frames(folders), study)
    for name, one, other in zip(parts._fields, parts, whole, strict=True):
        key = list(TABLES[name].key)
        one, other = (rows.sort_values(key, ignore_index=True) for rows in (one, other))
        pd.testing.assert_frame_equal(one[other.columns], other, check_dtype=False)
        tables.write(name, one, tmp_path / "canonical.parquet")


def test_a_seed_that_one_of_two_lacks_is_left_out_of_their_comparison():
    rng = np.random.default_rng(1)
    labels, codes = rng.integers(2, size=100), np.repeat([0, 1], 50)
    predicted = rng.integers(2, size=(3, 100))
    of = (codes, np.array([True, True]), 2)
    own = effects.Networks([1, 2, 4], Answers(labels, predicted, *of))
    other = effects.Networks([2, 4, 5], Answers(labels, predicted[::-1], *of))
    division = Grouping("g", codes, ["a", "b"], of[1])
    found = effects.compare(
        Point("d", "m", "ptq", 4),
        own,
        {"fp32": other},
        division,
        Statistics(draws=100),
        retrained=False,
    )
    assert found.certificates["seed"].unique().tolist() == [2, 4]
    overall = found.effects.set_index("metric").loc["overall", "change"]
    right = predicted == labels
    assert overall == pytest.approx(right[[1, 2]].mean() - right[[2, 1]].mean())
    assert found.levels.set_index("metric").loc["overall", "value"] == pytest.approx(right.mean())
