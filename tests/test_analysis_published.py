import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from quantskew.analysis.published import published
from quantskew.analysis.typeset import latex, markdown
from quantskew.params import load
from quantskew.quantization.method import Method

STUDY = load(Path(__file__).parents[1] / "params.yaml").judged()
STUDY = STUDY.model_copy(update={"datasets": ("mnist5k",), "bits": (8, 4), "models": ("n_1",)})
POINTS = [("fp32", 32), ("ptq", 8), ("ptq", 4), ("qat", 8), ("qat", 4), ("mpqat", 4)]


def place(method, bits, **columns):
    return {"dataset": "mnist5k", "model": "n_1", "method": method, "bits": bits, **columns}


@pytest.fixture
def frames():
    levels, effects, sizes, remedies = [], [], [], []
    for i, (method, bits) in enumerate(POINTS):
        sizes.append(place(method, bits, bytes=1000.0 * bits))
        for metric, group, value in [
            ("overall", "all", 0.9),
            ("fvo", "all", 0.1),
            ("worst_group", "all", 0.8),
            ("accuracy", "7", 0.95),
            ("accuracy", "8", 0.85),
        ]:
            level = {"group": group, "metric": metric, "n": 100, "value": value - i / 100}
            level["seed_sd"] = np.std([0.9, 0.8], ddof=1)
            limits = {"low": value - 0.02, "high": value + 0.02, "attribute": "digit"}
            levels.append(place(method, bits, **level, **limits))
        change = {"change": -i / 100, "low": -0.2, "high": 0.1, "verdict": "worse"}
        for metric in ("overall", "fvo") if method != "fp32" else ():
            where = {"metric": metric, "group": "all", "attribute": "digit", "reference": "fp32"}
            effects.append(place(method, bits, p_holm=0.01, **where, **change))
        if method in ("qat", "mpqat"):
            own = {"attribute": "digit", "bytes": 1000.0 * bits, "training": 1 / 7}
            for metric in ("overall", "fvo", "worst_group"):
                remedies.append(place(method, bits, metric=metric, value=0.5, **own, **change))
    claims = pd.DataFrame(
        {
            "dataset": "mnist5k",
            "claim": ["H2", "H3"],
            "model": "all",
            "family": "quantization",
            "scale": "share",
            "text": ["QAT is more accurate.", "Balanced images help."],
            "width": "all",
            "compared": ["qat − ptq", ""],
            "missing": ["", "needs two methods"],
            "boundary": [0.0, None],
            "units": [2, 0],
            **{key: [-0.0001, None] for key in ("estimate", "low", "high")},
            **{key: [0.5, None] for key in ("d", "d_low", "d_high")},
            "p_value": [0.0004, None],
            "p_holm": [0.0004, None],
            "estimand": "overall accuracy",
            "verdict": ["supported", "not testable"],
        }
    )
    files = [place("int8_random", 8, seed=0, bytes=2000, accuracy=0.9)]
    files[0] |= {"agreement_fp32": 0.98, "agreement_pytorch": 1.0}
    group = {"seed": 0, "attribute": "digit", "group": "7", "n": 100, "fp32": 0.95}
    group |= {"accuracy": 0.94, "pytorch": 0.93, "low": 0.9, "high": 0.97, "bound": 0.04}
    shipped = [place(*key, lost=2, gained=1, **group) for key in (("fp32", 32), ("int8_random", 8))]
    surface = {"seed": [0, 0, 1, 1], "attribute": "digit", "group": ["7", "8"] * 2}
    surface |= {"excess_loss": [0.1, 0.4, 0.2, 0.3], "second_order": [0.1, 0.2, 0.2, 0.6]}
    rows = {
        "curvature": place("ptq", 4, **surface),
        "deployed": files,
        "deployed_groups": shipped,
        "levels": levels,
        "effects": effects,
        "frontier": sizes,
        "remedies": remedies,
    }
    return {**{name: pd.DataFrame(part) for name, part in rows.items()}, "claims": claims}


def test_every_kind_of_table_shows_its_methods(frames):
    found = published(frames, STUDY)
    shown = {
        name: rows.get("method", pd.Series()).unique().tolist() for name, rows in found.items()
    }
    assert shown == {
        "baseline": ["fp32"],
        "ptq_int8": ["ptq"],
        "ptq_int4": ["ptq"],
        "qat": ["qat"],
        "mitigation": ["mpqat"],
        "methods": ["fp32", "ptq", "qat", "mpqat"],
        "groups": [],
        "evidence": [],
        "damage": ["ptq"],
        "files": ["int8_random"],
        "shipped": ["int8_random"],
    }


def test_numbers_are_those_of_the_frames_in_points(frames):
    found = published(frames, STUDY)
    row = found["ptq_int4"].iloc[0]
    assert row["accuracy, %"] == pytest.approx(88)
    assert row["change of FVO"] == pytest.approx(-2)
    assert row["kB"] == 4
    remedy = found["mitigation"].iloc[0]
    assert remedy["FVO change"] == pytest.approx(-5)
    assert remedy["worst group low"] == pytest.approx(-20)
    assert remedy["training, × fp32"] == 1 / 7
    groups = found["groups"].set_index("group")
    assert groups.loc["8", ["fp32", "int8", "int4"]].tolist() == pytest.approx([85, 84, 83])
    assert groups.loc["8", "change at int4"] == pytest.approx(-2)
    damage = found["damage"].loc[0, ["φ, nats", "predicted, nats", "error, nats", "error share"]]
    assert damage.tolist() == pytest.approx([(0.3 + 0.1) / 2, (0.1 + 0.4) / 2, 0.125, 0.5])
    assert found["files"].loc[0, ["answers as fp32, %", "kB"]].tolist() == [98, 2]
    shipped = found["shipped"].iloc[0]
    assert shipped[["fp32, %", "simulated, %", "file, %"]].tolist() == pytest.approx([95, 93, 94])
    assert shipped["certified loss, points"] == pytest.approx(4)


def test_intervals_over_seeds_are_students(frames):
    policy = Method.model_validate({"policy": "measured"}).model_dump()
    study = STUDY.model_copy(update={"mitigations": {"mpqat": policy}, "seeds": (0, 1, 2)})
    found = published(frames, study)
    rows = found["methods"].set_index(["method", "width"])
    assert rows.index.tolist()[0] == ("fp32", "fp32")
    low, _ = stats.t.interval(0.95, 2, loc=85, scale=np.std([90, 80], ddof=1) / np.sqrt(3))
    pair = published(frames, study.model_copy(update={"seeds": (0, 1)}))["methods"]
    assert pair["FVO ±"].isna().all()  # two seeds are too few to say
    own = {"dataset": "mnist5k", "model": "n_1", "seed": [0, 1]}  # of answers that were given
    few = published(frames | {"certificates": pd.DataFrame(own)}, study)["methods"]
    assert few["FVO ±"].isna().all()
    for name in ("accuracy", "worst group", "FVO"):
        assert 85 - rows.loc[("qat", "int4"), f"{name} ±"] == pytest.approx(low)
    assert rows.loc[("qat", "int4"), "worst group, %"] == pytest.approx(76)
    order = [("ptq", "int8"), ("ptq", "int4"), ("mpqat", "int4")]
    assert list(zip(*found["policies"][["method", "width"]].to_numpy().T, strict=True)) == order


def test_a_study_of_plain_quantization_alone_has_no_remedies(frames):
    study = STUDY.model_copy(update={"methods": {"ptq": STUDY.methods["ptq"]}, "mitigations": {}})
    plain = {**frames, "remedies": frames["remedies"].iloc[:0]}
    assert {"qat", "mitigation"}.isdisjoint(published(plain, study))


def test_other_post_training_methods_have_a_table_of_their_own(frames):
    methods = {**STUDY.methods, "qat": STUDY.methods["ptq"]}
    found = published(frames, STUDY.model_copy(update={"methods": methods}))
    assert found["post_training"]["method"].tolist() == ["qat", "qat"]
    assert "qat" not in found


def test_markdown_reads_back(frames):
    text = markdown(published(frames, STUDY)["evidence"])
    header, rule, *lines = ([c.strip() for c in row.split("|")[1:-1]] for row in text.splitlines())
    assert dict(zip(header, lines[0], strict=True))["estimate"] == "0.0"
    assert dict(zip(header, lines[1], strict=True))["estimate"] == "–"
    assert dict(zip(header, rule, strict=True))["p"] == "---:"
    assert dict(zip(header, lines[0], strict=True))["p"] == "< 0.001"
    assert dict(zip(header, lines[0], strict=True))["verdict"] == "worse"
    assert dict(zip(header, lines[0], strict=True))["the claim is"] == "supported"
    assert dict(zip(header, lines[1], strict=True))["missing"] == "needs two methods"


def test_latex_is_escaped_ruled_and_aligned(frames):
    found = published(frames, STUDY)
    text = latex(found["ptq_int4"], "ptq_int4")
    assert r"n\_1" in text
    assert r"{accuracy, \%}" in text
    assert r"\begin{tabular}{llllSSSSSSSlS}" in text
    assert [rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    text = latex(found["evidence"], "evidence")
    assert "{--}" in text
    assert "{$<$ 0.001}" in text
    assert "−" not in text
    assert "-0.0" not in text


ODD = ["$10%-$20%", "A$#$B", "two\nlines", "a|b", "<script>", "=1+1", "**b**", "_x_", "[a](b)"]


def test_odd_names_are_written_as_they_are():
    rows = pd.DataFrame({"group": ODD, "a|b": 0.5})
    header, _, *lines = markdown(rows).splitlines()
    assert header == r"| group | a\|b |"
    cells = [re.split(r"(?<!\\)\|", line)[1].strip() for line in lines]
    assert [re.sub(r"\\(.)", r"\1", cell) for cell in cells] == [
        name.replace("\n", " ") for name in ODD
    ]
    assert not any(re.search(r"(?<!\\)[$<*|]", cell) for cell in cells)
    text = latex(rows, "groups")
    for name in (r"\$10\%-\$20\%", r"A\$\#\$B", "two lines", "a|b", "<script>", "=1+1", r"\_x\_"):
        assert f"\n{name} & 0.5" in text
