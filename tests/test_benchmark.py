"""Published answers are judged from their tables alone, entry by entry."""

import runpy
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from quantskew import cli, tables
from quantskew.analysis.typeset import escape_markdown
from quantskew.answers.judging import compare_answers
from quantskew.errors import UserError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
ENTRIES = runpy.run_path(str(RESULTS / "entries.py"))
N, SEEDS = 1200, 5
LABELS = np.repeat(["a", "b", "c"], N // 3)
PLANTED = {
    ("fp32", 32): 0.0, ("ptq", 8): 0.0, ("ptq", 4): 0.1, ("spares", 4): -0.9, ("hurts", 4): 0.9,
}  # fmt: skip


def answers(shift, rng, hard):
    """What a network answers that is wrong more often of class c, the more so by ``shift``."""
    worse = np.where(LABELS == "c", 0.6 + shift, 0)
    right = hard + 0.5 * rng.normal(size=N) + 0.03 * rng.normal() + worse < 1.2
    return np.where(right, LABELS, np.where(LABELS == "a", "b", "a"))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    hard = rng.normal(size=N)
    for (method, bits), shift in PLANTED.items():
        for seed in range(SEEDS):
            rows = {"id": range(N), "label": LABELS, "prediction": answers(shift, rng, hard)}
            path = tmp_path / f"{method}-{bits}bit-seed{seed}.parquet"
            pd.DataFrame(rows).to_parquet(path)
    return tmp_path


def verdicts(rows):
    return rows.set_index(["method", "bits", "metric"])["verdict"]


def test_entries_are_judged_over_seeds_against_ptq_of_their_width(folder):
    rows = ENTRIES["entries"](folder)
    assert set(rows["metric"]) == {"overall", "worst_group", "fvo"}
    found = verdicts(rows)
    assert found["spares", 4, "worst_group"] == "better"
    assert found["hurts", 4, "worst_group"] == found["hurts", 4, "overall"] == "worse"
    assert found["fp32", 32].isna().all()
    against = rows.set_index(["method", "bits"])["reference"]
    assert set(against["spares", 4]) == {"ptq"}
    assert set(against["ptq", 4]) == {"fp32"}
    mean = np.mean([
        (pd.read_parquet(path)["prediction"] == LABELS)[LABELS == "c"].mean()
        for path in folder.glob("hurts-4bit-*")
    ])  # fmt: skip
    value = rows.set_index(["method", "metric"])["value"]["hurts", "worst_group"]
    assert value == pytest.approx(mean)
    listed = ENTRIES["listed"](rows)
    assert listed["entry"].iloc[0] == "fp32"
    assert listed["entry"].iloc[-1] == "hurts"
    assert set(listed["seeds"]) == {SEEDS}


def test_an_entry_more_changes_no_verdict_of_another(folder):
    before = ENTRIES["entries"](folder)
    rng = np.random.default_rng(7)
    for seed in range(SEEDS):
        rows = {"id": range(N), "label": LABELS, "prediction": rng.choice([*"abc"], N)}
        pd.DataFrame(rows).to_csv(folder / f"mine-4bit-seed{seed}.csv", index=False)
    after = ENTRIES["entries"](folder)
    assert verdicts(after)["mine", 4, "overall"] == "worse"
    others = after[after["method"] != "mine"].reset_index(drop=True)
    alone = ENTRIES["entries"](folder, ["spares"])
    same = before[before["method"] == "spares"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, same, check_dtype=False)
    pd.testing.assert_frame_equal(others, before, check_dtype=False)


def test_entries_may_be_compared_with_another_method(folder):
    rows = ENTRIES["entries"](folder, against="hurts")
    assert verdicts(rows)["spares", 4, "worst_group"] == "better"
    assert verdicts(rows)["ptq", 4, "worst_group"] == "better"


def test_what_does_not_fit_is_refused(folder):
    with pytest.raises(UserError, match="no entry 'spare'; did you mean 'spares'"):
        ENTRIES["entries"](folder, ["spare"])
    with pytest.raises(UserError, match="no table of gone to compare with"):
        ENTRIES["entries"](folder, against="gone")
    path = folder / "hurts-4bit-seed0.parquet"
    pd.read_parquet(path).iloc[5:].to_parquet(path)
    with pytest.raises(UserError, match=r"hurts-4bit-seed0\.parquet"):
        ENTRIES["entries"](folder)


@pytest.mark.slow
def test_published_answers_give_the_verdicts_of_their_study(project):
    target = project.folder / "docs/results"
    target.mkdir(parents=True)
    for name in ("publish.py", "export.py", "entries.py"):
        shutil.copyfile(RESULTS / name, target / name)
    try:
        project.run("python", "docs/results/publish.py", "digits")
        (published,) = target.glob("digits/answers/digits/resnet18_quarter")
        samples = pd.read_parquet(published / "samples.parquet")
        assert samples["sample"].str.startswith("digit").any() or samples["sample"].is_unique
        certificates = tables.read(
            "certificates", project.folder / "data/analysis/certificates.parquet"
        ).to_pandas()
        (attribute, *_) = certificates["attribute"]
        own = certificates[
            (certificates["method"] == "ptq")
            & (certificates["model"] == "resnet18_quarter")
            & (certificates["attribute"] == attribute)
        ]
        assert len(own)
        for (bits, seed), rows in own.groupby(["bits", "seed"]):
            found = compare_answers(
                published / f"fp32-32bit-seed{seed}.parquet",
                published / f"ptq-{bits}bit-seed{seed}.parquet", by=attribute,
            ).decisions[0].groups.set_index("group")  # fmt: skip
            wanted = rows.set_index("group").loc[found.index]
            for column in ("n", "lost", "gained"):
                assert (found[column] == wanted[column]).all()
            np.testing.assert_allclose(found["bound"], wanted["bound"])
        claims, wanted = (
            tables.read("claims", path / "claims.parquet").to_pandas()
            for path in (target / "digits", project.folder / "data/analysis")
        )
        pd.testing.assert_frame_equal(claims, wanted)
    finally:
        shutil.rmtree(project.folder / "docs")


PUBLISHED = sorted(RESULTS.glob("*/answers/*/*/samples.parquet"))


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.parts[-3])
def test_published_tables_are_small_and_hold_no_images(path):
    for file in path.parent.iterdir():
        assert file.stat().st_size < 300_000
        kinds = {str(field.type) for field in pq.read_schema(file)}
        assert kinds <= {"int32", "string"}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.parts[-3])
def test_kept_entries_are_judged_from_the_tables(path):
    kept = pd.read_parquet(path.parents[2] / "entries.parquet")
    kept = kept[(kept["against"] == "ptq") & (kept["by"] == kept["by"].iloc[0])]
    own = kept[kept["method"] == "adjusted"].drop(columns=["by", "against"])
    again = ENTRIES["entries"](path.parent, ["adjusted"], kept["by"].iloc[0])
    pd.testing.assert_frame_equal(again, own.reset_index(drop=True), check_dtype=False)


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda p: p.parts[-3])
def test_a_pair_is_judged_as_the_page_says(path, capsys):
    page = (RESULTS / "footing.md").read_text(encoding="utf-8")
    pair = [str(path.parent / f"{name}-seed0.parquet") for name in ("fp32-32bit", "ptq-3bit")]
    with pytest.raises(SystemExit) as ended:
        cli.main(["compare", *pair])
    assert ended.value.code in (0, 1, 2)
    sentence = capsys.readouterr().out.splitlines()[0]
    assert f"- {escape_markdown(sentence)}\n" in page
