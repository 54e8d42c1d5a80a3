"""Figures and the page: what is drawn, and what the page shows with its script and without."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import yaml

from quantskew.analysis import figures
from quantskew.analysis.figures import FIGURES, figure
from quantskew.analysis.figures.drawing import BarsByGroup, HeatMap, Points, TradeOff, looks
from quantskew.analysis.figures.registry import dvc_plots
from quantskew.analysis.report import LONGEST, Table, every_metric, render, shortened
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import cell
from quantskew.files import write_json

ROOT = Path(__file__).parents[1]
STUDY = Study(datasets=("d",), models=("m",), bits=(8, 4), seeds=(0,), methods={}, reference="ptq")

ROWS = pd.DataFrame({"group": [f"group {i:02}" for i in range(60)]})
ROWS["p_holm"] = [*np.random.default_rng(0).permutation(57) / 57, np.nan, np.nan, np.nan]
SMALL = Table("small", pd.DataFrame({"claim": ["a", "b"]}))


def test_a_long_table_keeps_what_matters_most_in_its_order():
    p = np.random.default_rng(0).permutation(5 * LONGEST) / (5 * LONGEST)
    p[7] = np.nan
    table = Table("t", pd.DataFrame({"group": range(len(p)), "p_holm": p}), "A note.")
    short = shortened(table)
    assert set(short.rows["p_holm"]) == set(np.sort(p)[:LONGEST])
    assert short.rows["group"].is_monotonic_increasing
    assert (
        short.note
        == "A note. 300 of 1,500 rows, with the smallest p holm; all are in data/analysis."
    )
    assert shortened(table._replace(rows=table.rows[:LONGEST])).note == "A note."
    assert [*shortened(Table("t", table.rows[["group"]])).rows["group"]] == [*range(LONGEST)]


def test_a_method_looks_the_same_in_every_figure():
    few, many = looks(["ptq", "qat"]), looks(["fp32", "ptq", "qat", *map(str, range(30))])
    assert few.items() <= many.items()
    assert len({*many.values()}) == len(many)


def test_every_network_is_a_dot_on_its_bar():
    rows = pd.DataFrame({"panel": "p", "group": ["a", "b"], "n": 9, "width": "int2"})
    rows = rows.assign(value=0.5, low=0.4, high=0.6)
    bars = BarsByGroup(y_label="accuracy", percent=True)
    canvas = bars.canvas(rows.assign(seeds=[[0.1, 0.9], [0.5, 0.5]]))
    dots = [
        np.column_stack(line.get_data())
        for line in canvas.axes[0].lines
        if len(line.get_xdata()) > 1
    ]
    assert [[*one[:, 1]] for one in dots if one[0, 0] == one[1, 0]] == [[10, 90], [50, 50]]
    plain = bars.canvas(rows)
    assert len(plain.axes[0].lines) == len(canvas.axes[0].lines) - 2


def test_what_is_no_point_of_a_field_is_not_in_its_legend():
    rows = pd.DataFrame({"panel": "p", "method": ["fp32", "fp16", "ptq"], "bits": [32, 16, 8]})
    rows["width"] = ["fp32", "fp16", "int8"]
    for name in ("accuracy", "fvo"):
        rows[[name, f"{name}_low", f"{name}_high"]] = 0.5
    canvas = TradeOff().canvas(rows)
    assert [text.get_text() for text in canvas.legends[0].texts] == ["fp32", "ptq"]


def test_a_heatmap_without_any_number_is_drawn():
    rows = pd.DataFrame({"panel": "p", "drawing": "d", "x": ["a", "b"], "y": "c", "value": np.nan})
    HeatMap(signed=True).canvas(rows)


def test_signed_numbers_are_white_at_0_and_alike_in_all_fields():
    rows = pd.DataFrame({"panel": "p", "drawing": ["a", "a", "b", "b"], "x": "x", "y": [*"uvuv"]})
    canvas = HeatMap(signed=True).canvas(rows.assign(value=[-1.0, 0.5, 0.0, 4.0]))
    images = [image for ax in canvas.axes for image in ax.images if ax.get_title("left")]
    assert [image.get_clim() for image in images] == [(-4, 4)] * 2
    assert images[1].norm(0.0) == 0.5
    for nothing in (np.nan, 0.0):
        assert "<svg" in HeatMap(signed=True).svg(rows.assign(value=nothing))


def rendered(**changes) -> str:
    given = {
        "answer": ["Who: nobody."], "drawn": {}, "flow": [SMALL, SMALL], "study": STUDY,
        "tables": [Table("long", ROWS)], "limits": [], "parameters": {"seeds": [0]}, "hashes": {},
        "versions": {"numpy": "2.0"},
    }  # fmt: skip
    return render(**given | changes)


@pytest.fixture(scope="module")
def page() -> str:
    return rendered()


def test_a_figure_is_one_function_that_reaches_the_rows_the_report_and_dvc(tmp_path, monkeypatch):
    monkeypatch.setattr(figures.registry, "FIGURES", dict(FIGURES))
    known = figures.registry.FIGURES
    monkeypatch.setattr("quantskew.analysis.report.FIGURES", known)

    @figure(
        order=15, section="results", title="Size of each group", alternative="Points of size.",
        caption="Counted, not estimated.", drawing=Points("place", "samples"),
    )  # fmt: skip
    def sizes(study: Study, groups: pd.DataFrame) -> pd.DataFrame:
        return groups.assign(panel=study.datasets[0], drawing="sizes", series="all", x=[0.0, 1.0])

    assert "sizes" not in FIGURES
    assert [*known][1] == "sizes"  # after the figure of order 10, before that of order 20
    tables = {"groups": pd.DataFrame({"group": ["young", "old"], "y": [7.0, 5.0]})}
    drawn = {}
    for name, one in known.items():
        if {*one.tables} <= {*tables} and name == "sizes":
            rows = one.rows(tables, STUDY)
            write_json(tmp_path / f"{name}.json", rows.to_dict("records"))
            drawn[name] = one.drawing.svg(rows)
    assert [row["y"] for row in json.loads((tmp_path / "sizes.json").read_text())] == [7, 5]
    page = rendered(drawn=drawn)
    assert "Size of each group.</strong> Counted, not estimated." in page
    assert page.index(">young</text>") < page.index('id="why"')
    (entry,) = [plot for plot in dvc_plots() if "plots/rows/sizes.json" in plot]
    assert entry["plots/rows/sizes.json"] == {
        "template": "points", "title": "Size of each group",
        "x": "x", "y": "y", "x_label": "place", "y_label": "samples",
    }  # fmt: skip
    with pytest.raises(ValueError, match="a figure 'sizes' already"):
        figure()(sizes)


def test_every_file_of_the_folder_is_a_figure_and_dvc_draws_it():
    files = {path.stem for path in Path(figures.__file__).parent.glob("*.py")}
    assert {*FIGURES} == files - {"__init__", "registry", "drawing"}
    written = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["plots"]
    assert written == dvc_plots(), yaml.safe_dump({"plots": dvc_plots()}, sort_keys=False)
    templates = {path.stem for path in (ROOT / ".dvc/plots").glob("*.json")}
    assert {one.drawing.template for one in FIGURES.values()} == templates


ODD = ["$10%-$20%", "A$#$B", "two\nlines", "a|b", "<script>", "=1+1", "_x", "\\$", "a & b", "x_1"]


@pytest.mark.parametrize("drawing", [BarsByGroup(), HeatMap(), Points()])
def test_odd_names_are_drawn_as_they_are(drawing):
    rows = pd.DataFrame({"panel": "$p$", "drawing": "_d", "group": ODD, "series": ODD, "y": ODD})
    rows = rows.assign(x="a", width="int4", n=1, value=0.5, low=0.4, high=0.6)
    if drawing.template == "points":
        rows = rows.drop(columns=["low", "high"]).assign(x=0.1, y=0.2)
    drawn = "\n".join(ElementTree.fromstring(drawing.svg(rows)).itertext())
    drawn = drawn.replace("\N{WORD JOINER}", "")
    for name in [*ODD, "$p$"]:
        assert all(f"\n{line}" in drawn for line in name.split("\n")), name


def test_a_shortened_drawing_is_the_same_drawing():
    rows = pd.DataFrame({"panel": "p", "drawing": "d", "x": [*"ab"], "y": "c", "value": [1.0, 2]})
    svg = HeatMap().svg(rows)
    assert svg == HeatMap().svg(rows)
    root = ElementTree.fromstring(svg)
    space = "{http://www.w3.org/2000/svg}"
    assert {"1", "2", "a", "b", "c"} <= {text.text for text in root.iter(f"{space}text")}
    marks = {mark.get("id") for mark in root.iter() if mark.get("id")}
    link = "{http://www.w3.org/1999/xlink}href"
    used = {use.get(link) for use in root.iter(f"{space}use")}
    assert used
    assert used <= {f"#{mark}" for mark in marks}


def test_the_page_shows_odd_names_as_they_are():
    page = rendered(tables=[Table("t", pd.DataFrame({"group": ODD}))], answer=["<script>: a"])
    assert page.count("<script>") == 1
    assert "<td>&lt;script&gt;</td>" in page
    assert "<td>A$#$B</td>" in page


def test_every_metric_of_every_grouping_is_listed_where_it_has_a_meaning():
    effects = pd.DataFrame(
        {
            "dataset": "d", "model": "m", "method": method, "bits": bits, "reference": reference,
            "attribute": attribute, "group": group, "metric": metric, "change": -bits / 10,
            "verdict": "worse" if bits == 4 else "cannot tell",
        }
        for attribute, metrics in (
            ("label", ["overall", "fvo"]), ("sex", ["overall", "fvo", "equalized_odds_worst"]),
        )
        for metric in [*metrics, "accuracy"]
        for group in (["a", "b"] if metric == "accuracy" else ["all"])
        for method, bits, reference in (
            ("ptq", 8, "fp32"), ("ptq", 4, "fp32"), ("qat", 4, "fp32"), ("qat", 4, "ptq"),
        )
    )  # fmt: skip
    levels = pd.DataFrame(
        {"dataset": "d", "model": "m", "method": "fp32", "group": "all", "value": 0.9,
         "attribute": ["label", "sex"], "metric": "overall"}
    )  # fmt: skip
    rows = every_metric(levels, effects, STUDY)
    assert rows[["attribute", "metric"]].agg(" ".join, axis=1).tolist() == [
        "label overall", "label fvo", "sex overall", "sex fvo", "sex equalized_odds_worst",
    ]  # fmt: skip
    assert [*rows.columns[4:]] == [
        "fp32", "int8_change", "int8_verdict", "int4_change", "int4_verdict",
    ]  # fmt: skip
    odds = rows.iloc[-1]
    assert (odds["int8_change"], odds["int4_change"]) == (-0.8, -0.4)
    assert odds["int4_verdict"] == "worse"
    assert rows["fp32"].notna().tolist() == [True, False, True, False, False]
    assert every_metric(levels, effects[:0], STUDY).empty


def test_without_its_script_the_page_has_all_rows_and_no_pager(page):
    body = page[page.index("<body>") : page.index("<script>")]
    assert re.findall(r"<tr><td>(group \d\d)</td>", body) == [*ROWS["group"]]
    assert re.findall(r"<([^>]*) hidden>", body) == ['div class="pager"'] * 3
    assert "tr[hidden] { display: table-row; }" in re.search(r"@media print {.*\n}", page, re.S)[0]


DRIVER = """
<script>
const pagers = [...document.querySelectorAll(".pager")], long = pagers[2].parentElement;
const [previous, next, told, filter] = pagers[2].children;
const seen = {hidden: pagers.map(pager => pager.hidden), live: told.ariaLive, steps: []};
const shown = cell => cell.offsetHeight > 0;
const look = () => seen.steps.push([
  told.textContent,
  [...long.querySelectorAll("td:first-child")].filter(shown).map(cell => cell.textContent),
  [previous, next].map(button => button.ariaDisabled === "true"),
]);
const press = element => { element.click(); look(); };
const type = text => { filter.value = text; filter.dispatchEvent(new Event("input")); look(); };
const p = long.querySelectorAll("th button")[1];
look(); [previous, next, next, next, previous, p, p, next, next].forEach(press);
["P 4", "nobody", ""].forEach(type);
document.body.textContent = JSON.stringify(seen);
</script>
"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_long_table_is_paged_sorted_and_filtered(page, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page.replace("</body>", DRIVER + "</body>"), encoding="utf-8")
    dom = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
         f"--user-data-dir={tmp_path / 'profile'}", file.as_uri()],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    seen = json.loads(dom[dom.index('{"hidden"') : dom.rindex("</body>")])
    assert seen["hidden"] == [True, True, False]
    assert seen["live"] == "polite"
    rising, falling = (
        ROWS.sort_values("p_holm", ascending=order, kind="stable") for order in (True, False)
    )
    fours = falling[
        falling["group"].str.contains("4") | falling["p_holm"].map(cell).str.contains("4")
    ]
    pages = [  # after each step: the rows in their order, and which page of them
        (ROWS, 0), (ROWS, 0), (ROWS, 1), (ROWS, 2), (ROWS, 2), (ROWS, 1),
        (rising, 0), (falling, 0), (falling, 1), (falling, 2),
        (fours, 0), (ROWS[:0], 0), (falling, 0),
    ]  # fmt: skip
    for (told, names, disabled), (rows, number) in zip(seen["steps"], pages, strict=True):
        shown = rows["group"][25 * number :][:25]
        assert names == [*shown]
        start = 25 * number + 1
        assert told == (
            f"rows {start}–{start + len(shown) - 1} of {len(rows)}" if names else "no rows"
        )
        assert disabled == [number == 0, 25 * (number + 1) >= len(rows)]
