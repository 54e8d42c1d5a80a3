"""Tables of answers that cannot be judged: each is refused with what is wrong, and where."""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from quantskew import cli
from quantskew.answers.judging import compare_answers
from quantskew.answers.reading import AnswersError
from quantskew.data.groups import Groups
from quantskew.errors import UserError

N = 60
LABELS = ["cat", "dog"] * (N // 2)
HOT = np.array([[0.9, 0.1], [0.2, 0.8]] * (N // 2))


def frame(**columns):
    """Sixty samples, all answered rightly."""
    own = {"id": [f"i{k:02d}" for k in range(N)], "label": LABELS, "race": ["a", "b"] * (N // 2),
           "prediction": LABELS}  # fmt: skip
    table = pd.DataFrame({**own, **columns})
    return table.drop(columns=[name for name in columns if columns[name] is None])


def at(values, row, value):
    """The same list with another value in one row."""
    changed = list(values)
    changed[row] = value
    return changed


def csv(**columns):
    return lambda: frame(**columns).to_csv("after.csv", index=False)


def text(content, name="after.csv"):
    def write():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


def parquet(**columns):
    return lambda: frame(**columns).to_parquet("after.parquet")


def lines(rows, name="after.jsonl"):
    return text("\n".join(r if isinstance(r, str) else json.dumps(r) for r in rows), name)


def truncated(name, make):
    def write():
        make()
        content = Path(name).read_bytes()
        Path(name).write_bytes(content[: len(content) // 2])

    return write


def probabilities(values):
    return {"prediction": None, "p_cat": values[:, 0], "p_dog": values[:, 1]}


def changed(values, place, value):
    values = np.array(values, float)
    values[place] = value
    return values


def labelled(**columns):
    def write():
        frame(**columns).to_csv("labels.csv", index=False)
        frame(label=None, race=None).to_csv("after.csv", index=False)

    return write


def twice_named():
    rows = frame().to_csv(index=False).splitlines()
    Path("after.csv").write_text("\n".join([rows[0].replace("race", "label"), *rows[1:]]))


def gzipped():
    with gzip.open("after.csv.gz", "wt") as file:
        frame().to_csv(file, index=False)
    content = Path("after.csv.gz").read_bytes()
    Path("after.csv.gz").write_bytes(content[:-30])


def nested_groups():
    rows = pa.Table.from_pandas(frame(race=None))
    rows = rows.append_column("race", pa.array([["a"]] * N))
    pq.write_table(rows, "after.parquet")


def ragged():
    rows = pa.Table.from_pandas(frame(prediction=None))
    rows = rows.append_column("logits", pa.array([[0.1, 0.9]] * (N - 1) + [[0.1, 0.9, 0.0]]))
    pq.write_table(rows, "after.parquet")


def lists_without(missing):
    def write():
        rows = pa.Table.from_pandas(frame(prediction=None))
        rows = rows.append_column("logits", pa.array([*[[0.1, 0.9]] * (N - 1), missing]))
        pq.write_table(rows, "after.parquet")

    return write


def texts_of_numbers():
    rows = pa.Table.from_pandas(frame(prediction=None))
    rows = rows.append_column("logits", pa.array([["a", "b"]] * N))
    pq.write_table(rows, "after.parquet")


def dogs_first():
    before = frame(**probabilities(HOT))
    before.to_csv("before.csv", index=False)
    before[["id", "p_dog", "p_cat"]].to_csv("after.csv", index=False)


def three_classes():
    frame(**probabilities(HOT)).to_csv("before.csv", index=False)
    frame(**probabilities(HOT), p_cow=0.0).to_csv("after.csv", index=False)


def wide():
    numbers = [*map(str, range(12_000))]
    for name in ("before.csv", "after.csv"):
        pd.DataFrame({"id": numbers, "label": numbers, "prediction": numbers, "race": "a"}).to_csv(
            name, index=False
        )


def many_groups():
    ids = [*map(str, range(6_000))]
    for name in ("before.csv", "after.csv"):
        pd.DataFrame(
            {"id": ids, "label": LABELS * 100, "prediction": LABELS * 100,
             "race": [f"r{k}" for k in ids]}
        ).to_csv(name, index=False)  # fmt: skip


def written(**columns):
    def write():
        frame(**columns).to_csv("before.csv", index=False)
        frame().to_csv("after.csv", index=False)

    return write


HUGE = ",".join(["id", "label", "race", "prediction"]) + "\n" + 'i00,"' + "x" * 20_000_000 + "\n"
JSON = [{"id": f"i{k:02d}", "prediction": LABELS[k]} for k in range(N)]

CASES = {
    # files
    "no such file": (lambda: None, ["after.csv: no such file"]),
    "empty": (text(""), ["after.csv is empty"]),
    "a folder": (lambda: os.mkdir("after.csv"), ["after.csv: is no regular file"]),
    "only a header": (text("id,label,race,prediction\n"), ["after.csv has no rows"]),
    "only an empty line": (text("\n"), ["after.csv"]),
    "binary": (text(bytes(range(256)) * 20), ["after.csv"]),
    "UTF-16": (text(frame().to_csv(index=False).encode("utf-16")), ["after.csv"]),
    "Latin-1": (
        text(frame(race=["é"] * N).to_csv(index=False).encode("latin-1")),
        ["after.csv cannot be read", "UTF8"],
    ),
    "semicolons": (
        lambda: frame().to_csv("after.csv", index=False, sep=";"),
        ["after.csv has no column 'id'", "it has id;label;race;prediction"],
    ),
    "a row too short": (
        text(frame().to_csv(index=False) + "i99,cat\n"),
        ["after.csv cannot be read", "Expected 4 columns, got 2"],
    ),
    "a quote that never ends": (text(HUGE), ["after.csv cannot be read"]),
    "a column twice": (twice_named, ["after.csv has the column 'label' twice"]),
    "another suffix": (
        text("x", "after.xlsx"),
        ["after.xlsx: tables of answers are .parquet, .csv"],
    ),
    "a pickle": (text("x", "after.pkl"), ["after.pkl: tables of answers are"]),
    "no Parquet": (text("id,label", "after.parquet"), ["after.parquet cannot be read"]),
    "empty Parquet": (text("", "after.parquet"), ["after.parquet is empty"]),
    "truncated Parquet": (truncated("after.parquet", parquet()), ["after.parquet cannot be read"]),
    "Parquet without rows": (
        lambda: frame()[:0].to_parquet("after.parquet"),
        ["after.parquet has no rows"],
    ),
    "gzipped Parquet": (text("x", "after.parquet.gz"), ["after.parquet.gz: tables of answers are"]),
    "truncated gzip": (gzipped, ["after.csv.gz"]),
    "no gzip": (text("id,label", "after.csv.gz"), ["after.csv.gz"]),
    "no JSON": (lines(["nothing"]), ["after.jsonl is not JSON lines"]),
    "a list of JSON": (lines([json.dumps(JSON)]), ["after.jsonl is not JSON lines: line 1"]),
    "JSON over many lines": (text(json.dumps(JSON[0], indent=1), "after.jsonl"), ["after.jsonl"]),
    "truncated JSON": (lines([*JSON[:-1], '{"id": "i5']), ["after.jsonl cannot be read"]),
    "JSON of two types": (lines([*JSON, {"id": 7, "prediction": "cat"}]), ["after.jsonl"]),
    # ids
    "no id": (csv(id=None), ["after.csv has no column 'id'", "it has label, race, prediction"]),
    "a name close to id": (
        lambda: frame().rename(columns={"id": "Id"}).to_csv("after.csv", index=False),
        ["after.csv has no column 'id'"],
    ),
    "an empty id": (csv(id=at(frame()["id"], 7, "")), ["after.csv: row 8 has no id"]),
    "an id that is null": (parquet(id=at(frame()["id"], 3, None)), ["row 4 has no id"]),
    "ids with a point": (parquet(id=np.arange(N) + 0.5), ["an id is no whole number"]),
    "ids that are no text": (
        parquet(id=[b"\xff%d" % k for k in range(N)]),
        ["after.parquet: an id is no text"],
    ),
    "labels that are no text": (
        parquet(label=[b"\xff%d" % k for k in range(N)]),
        ["column 'label' is no text"],
    ),
    "only blank lines of JSON": (text("\n \n", "after.jsonl"), ["after.jsonl is not JSON lines"]),
    "ids that are lists": (
        lambda: frame(id=[[1]] * N).to_parquet("after.parquet"),
        ["ids are texts or whole numbers"],
    ),
    "an id twice": (
        csv(id=at(frame()["id"], 5, "i04")),
        ["after.csv: 1 rows have an id that another row has, such as row", "'i04'"],
    ),
    "an id twice in the reference": (
        written(id=at(frame()["id"], 5, "i04")),
        ["before.csv: 1 rows have an id that another row has, such as row 6 (id 'i04')"],
    ),
    "an unknown id twice": (
        lambda: pd.concat([frame(), frame()[:2].assign(id="new")]).to_csv("after.csv", index=False),
        ["after.csv: 1 rows have an id that another row has, such as row 62 (id 'new')"],
    ),
    "other ids": (
        csv(id=[f"x{k}" for k in range(N)]),
        ["after.csv lacks 60 of the 60 samples", "'i00'"],
    ),
    "ids written otherwise": (
        csv(id=[f"{k}" for k in range(N)]),
        ["after.csv lacks 60 of the 60 samples of before.csv"],
    ),
    "an id missing": (
        lambda: frame()[1:].to_csv("after.csv", index=False),
        ["after.csv lacks 1 of the 60 samples of before.csv, such as 'i00'", "--missing"],
    ),
    "an id more": (
        lambda: pd.concat([frame(), frame()[:1].assign(id="new")]).to_csv("after.csv", index=False),
        ["before.csv lacks 1 of the 61 samples of after.csv, such as 'new'"],
    ),
    # answers
    "no answers": (
        csv(prediction=None),
        ["after.csv: its answers stand in one of the columns prediction, logits", "has none"],
    ),
    "answers twice": (
        csv(prediction=None, score=0.5, logits="[1, 2]"),
        ["states them as logits and as score"],
    ),
    "one column of a class": (csv(prediction=None, p_cat=0.5), ["it has none of them"]),
    "an empty answer": (
        csv(prediction=at(LABELS, 9, "")),
        ["after.csv: prediction is missing in row 10 (id 'i09')"],
    ),
    "answers that are lists": (
        lambda: frame(prediction=[["cat"]] * N).to_parquet("after.parquet"),
        ["column 'prediction' holds list"],
    ),
    "an answer of another class": (
        csv(prediction=at(LABELS, 3, "Dog")),
        ["after.csv answers 'Dog'", "--classes"],
    ),
    "answers of other classes": (
        csv(prediction=["Katze", "Hund"] * (N // 2)),
        ["after.csv answers 'Katze', 'Hund' (100.0 % of its answers are no label)"],
    ),
    "answers by index without names": (
        csv(prediction=[0, 1] * (N // 2)),
        ["after.csv answers '0', '1'", "'cat', 'dog'"],
    ),
    "answers that are numbers": (
        csv(prediction=np.linspace(0, 1, N)),
        ["after.csv answers", "are no label"],
    ),
    "too many classes": (wide, ["12,000 different values", "2 to 10,000"]),
    "a single class": (
        lambda: [
            frame(label="cat", prediction="cat").to_csv(f"{n}.csv", index=False)
            for n in ("before", "after")
        ],
        ["1 different values, such as cat"],
    ),
    # numbers
    "NaN among probabilities": (
        csv(**probabilities(changed(HOT, (4, 0), np.nan))),
        ["after.csv: p_cat, p_dog are missing or not finite in row 5 (id 'i04')"],
    ),
    "infinity among probabilities": (
        csv(**probabilities(changed(HOT, (4, 0), np.inf))),
        ["not finite in row 5 (id 'i04')"],
    ),
    "a probability that is a text": (
        csv(prediction=None, p_cat=at(HOT[:, 0], 2, "high"), p_dog=HOT[:, 1]),
        ["after.csv cannot be read", "high"],
    ),
    "probabilities above 1": (
        csv(**probabilities(changed(HOT, (4, 0), 3))),
        ["the probabilities of row 5 (id 'i04') are 3.0, 0.1, with the sum 3.1"],
    ),
    "negative probabilities": (
        csv(**probabilities(changed(changed(HOT, (4, 0), -0.5), (4, 1), 1.5))),
        ["row 5 (id 'i04')", "Numbers of any size are logits"],
    ),
    "percent": (csv(**probabilities(100 * HOT)), ["must be 0 or more and sum to 1"]),
    "lists in a CSV": (
        csv(prediction=None, logits="[1, 2]"),
        ["a CSV holds no lists; write logits as columns"],
    ),
    "lists of unequal length": (
        ragged,
        ["logits has 2 numbers in row 1", "3 in row 60 (id 'i59')"],
    ),
    "a list missing": (lists_without(None), ["logits has 2 numbers", "none in row 60"]),
    "NaN in a list": (lists_without([np.nan, 1.0]), ["not finite in row 60 (id 'i59')"]),
    "a null in a list": (lists_without([None, 1.0]), ["not finite in row 60 (id 'i59')"]),
    "lists of texts": (texts_of_numbers, ["after.parquet: logits"]),
    "a single logit": (
        lambda: pq.write_table(
            pa.Table.from_pandas(frame(prediction=None)).append_column(
                "logits", pa.array([[0.5]] * N)
            ),
            "after.parquet",
        ),
        ["logits has 1 numbers a sample"],
    ),
    "a score without a threshold": (
        csv(prediction=None, score=0.7),
        ["after.csv gives a score", "--threshold 0.5"],
    ),
    "another order of classes": (
        dogs_first,
        ["the classes or their order differ: before.csv has 2: cat, dog; after.csv has"],
    ),
    "another number of classes": (three_classes, ["the classes or their order differ", "has 3"]),
    "labels that are no classes": (
        lambda: [
            frame(**{**probabilities(HOT), "label": ["Cat", "Dog"] * (N // 2)}).to_csv(
                f"{n}.csv", index=False
            )
            for n in ("before", "after")
        ],
        ["the label of id 'i00' is 'Cat', which is none of the classes cat, dog"],
    ),
    # labels and groups
    "no label": (
        lambda: [frame(label=None).to_csv(f"{n}.csv", index=False) for n in ("before", "after")],
        ["no table has the column 'label'", "there are race, prediction"],
    ),
    "an empty label": (
        lambda: [
            frame(label=at(LABELS, 2, "")).to_csv(f"{n}.csv", index=False)
            for n in ("before", "after")
        ],
        ["the label of id 'i02' is missing"],
    ),
    "labels that differ": (
        csv(label=["cat"] * N),
        ["label differs in 30 of 60 samples: before.csv says 'dog', after.csv says 'cat' in row 2"],
    ),
    "groups that differ": (
        csv(race=at(["a", "b"] * 30, 8, "c")),
        ["race differs in 1 of 60 samples: before.csv says 'a', after.csv says 'c' in row 9"],
    ),
    "no such group": (
        lambda: [
            frame(race=None, raze="a").to_csv(f"{n}.csv", index=False) for n in ("before", "after")
        ],
        ["no table has the column 'race'; did you mean 'raze'?"],
    ),
    "groups that are lists": (nested_groups, ["column 'race' holds list"]),
    "groups of numbers without bins": (
        lambda: [
            frame(race=[k + 0.5 for k in range(N)]).to_csv(f"{n}.csv", index=False)
            for n in ("before", "after")
        ],
        ["attribute 'race' is a number of 60 different values"],
    ),
    "a group for each sample": (many_groups, ["'race' has 6,000 different values"]),
    "a group called all": (
        lambda: [frame(race="all").to_csv(f"{n}.csv", index=False) for n in ("before", "after")],
        ["'race' has the value 'all', which is everyone here"],
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame().to_csv("before.csv", index=False)
    return tmp_path


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as ended:
        cli.main([str(a) for a in arguments])
    said = capsys.readouterr().err
    assert ended.value.code == 64
    assert said.startswith("error: ")
    assert "Traceback" not in said
    assert len(said) < 1500
    return said


@pytest.mark.parametrize("case", CASES)
def test_a_bad_table_is_named_without_a_traceback(case, here, capsys):
    write, parts = CASES[case]
    write()
    after = next(iter(sorted(here.glob("after.*"))), Path("after.csv")).name
    said = refused(capsys, "compare", "before.csv", after, "--by", "race")
    for part in parts:
        assert part in said


def test_there_are_sixty_bad_tables_or_more():
    assert len(CASES) >= 60


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (["--by", "id"], ["id names single samples"]),
        (["--unit", "person"], ["no table has the column 'person'"]),
        (["--by", "race*rac"], ["no table has the column 'rac'; did you mean 'race'"]),
        (["--classes", "cat,cat"], ["--classes names a class twice"]),
        (["--classes", "dog,cow"], ["the label of id 'i00' is 'cat', which is none of"]),
        (["--missing", "2"], ["--missing 2: a share"]),
        (["--threshold", "nan"], ["--threshold nan: a number"]),
        (["--classes", ",".join(map(str, range(200)))], ["'cat', which is none of"]),
        (["--margin", "7"], ["margin"]),
        (["--minimum", "0"], ["--minimum 0: at least 1"]),
        (["--labels", "none.csv"], ["none.csv: no such file"]),
        (["--policy", "none.yaml"], ["none.yaml: no such file"]),
        (["--json", "before.csv/x.json"], ["the verdict is could not tell and cannot be written"]),
    ],
)
def test_an_option_that_does_not_fit_is_named(options, parts, here, capsys):
    frame().to_csv("after.csv", index=False)
    said = refused(capsys, "compare", "before.csv", "after.csv", *options)
    for part in parts:
        assert part in said


@pytest.mark.parametrize(
    ("columns", "parts"),
    [
        (
            {"label": at(LABELS, 4, "dog")},
            ["label differs in 1 of 60 samples: before.csv says 'cat'"],
        ),
        ({"race": at(["a", "b"] * 30, 4, "")}, ["race differs in 1", "labels.csv says nothing"]),
        ({"id": [f"x{k}" for k in range(N)]}, ["labels.csv lacks 60 of the 60"]),
        ({"id": at(frame()["id"], 5, "i04")}, ["labels.csv: 1 rows have an id"]),
    ],
)
def test_a_table_of_labels_that_does_not_fit_is_named(columns, parts, here, capsys):
    labelled(**columns)()
    said = refused(
        capsys, "compare", "before.csv", "after.csv", "--labels", "labels.csv", "--by", "race"
    )
    for part in parts:
        assert part in said


def test_a_table_given_twice_or_named_as_the_tables_name_the_reference_is_refused(here, capsys):
    frame().to_csv("after.csv", index=False)
    twice = refused(capsys, "compare", "before.csv", "after.csv", "after.csv")
    assert "two tables to judge are called alike: " in twice
    with pytest.raises(AnswersError, match="no table is given"):
        compare_answers(frame(), {})
    for name in ("fp32", "id", "label"):
        with pytest.raises(AnswersError, match=f"'{name}'"):
            compare_answers(frame(), {name: frame()})


@pytest.mark.parametrize("missing", [2, -1, np.nan])
def test_a_share_that_may_be_missing_is_one_from_python_too(missing):
    with pytest.raises(AnswersError, match="a share from 0"):
        compare_answers(frame(), frame().iloc[:30], missing=missing)


def test_an_attribute_that_no_sample_has_is_refused(here):
    nobody = frame(race=[None] * N)
    with pytest.raises(AnswersError, match="'race' is known of no sample"):
        compare_answers(nobody, frame(race=None), by="race", grouping=Groups(unknown="leave_out"))


def test_two_groups_of_one_name_are_refused(here):
    stars = frame(race=["a*b", "a"] * 30, gender=["c", "b*c"] * 30)
    with pytest.raises(AnswersError, match=r"two groups are called 'a\*b\*c'"):
        compare_answers(stars, frame(race=None), by="race*gender")


def test_a_frame_of_mixed_types_is_named(here):
    mixed = frame(label=at(LABELS, 0, 3))
    with pytest.raises(AnswersError, match="after cannot be read"):
        compare_answers(frame(), mixed)


def test_indices_of_classes_that_are_called_like_numbers_are_so_in_all_tables():
    """A network that never answers the first class says 1 and 2, as class names are, too."""
    ratings = frame(label=["1", "2", "3"] * 20, prediction=["0", "1", "2"] * 20)
    collapsed = frame(label=None, race=None, prediction=["1", "1", "2"] * 20)
    found = compare_answers(ratings, collapsed, classes=("1", "2", "3"))
    said = found.predictions
    assert (said["before"] == said["label"]).all()
    assert said["after"].tolist() == ["2", "2", "3"] * 20


def test_a_value_that_is_no_number_is_named_by_its_sample():
    aged = frame(age=at(["3", "40"] * 30, 59, "old"))
    with pytest.raises(UserError, match="'old' of sample 'i59'"):
        compare_answers(aged, frame(race=None), by="age")
    # nor is one refused that is left out
    found = compare_answers(aged, frame(race=None).iloc[:59], by="age", missing=0.1)
    assert found.decisions[0].groups["group"].tolist() == ["0-18", "40-59"]


def test_a_threshold_of_scores_is_a_probability():
    numbers = frame(p_cat=HOT[:, 0], p_dog=HOT[:, 1], prediction=None)
    with pytest.raises(AnswersError, match="--threshold 5: recall"):
        compare_answers(numbers, numbers, threshold=5, scores=True)
