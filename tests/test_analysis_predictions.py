from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from quantskew import tables
from quantskew.analysis import effects
from quantskew.names import Variant
from quantskew.schemas import POINT, VARIANT
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


def write(written: pd.DataFrame, folder: Path) -> list[Path]:
    """Write a table for each network; return their paths."""
    paths = []
    for key, part in written.groupby(list(VARIANT)):
        paths.append(folder / "predictions" / f"{Variant(*key).stem}.parquet")
        tables.write("predictions", part, paths[-1])
    return paths


def test_predictions_of_all_networks_are_the_table_pivoted(tmp_path):
    written = rows(200)
    write(written, tmp_path)
    found, ids = effects.read_predictions(tmp_path)
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
    write(rows(5).iloc[:-1], tmp_path)
    with pytest.raises(TableError, match=r"ptq-4bit-seed1.parquet answers other samples than"):
        effects.read_predictions(tmp_path)


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
