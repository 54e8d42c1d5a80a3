"""What the page shows of long tables, with its script and without."""

import json
import re
import shutil
import subprocess
from functools import partial

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from quantskew.analysis.figures import bars_by_group, heatmap, looks, svg, trade_off
from quantskew.analysis.report import LONGEST, ReportTable, cell, render, shortened
from quantskew.params import Params

ROWS = pd.DataFrame({"group": [f"group {i:02}" for i in range(60)]})
ROWS["p_holm"] = [*np.random.default_rng(0).permutation(57) / 57, np.nan, np.nan, np.nan]
SMALL = ReportTable("small", pd.DataFrame({"claim": ["a", "b"]}))


def test_a_long_table_keeps_what_matters_most_in_its_order():
    p = np.random.default_rng(0).permutation(5 * LONGEST) / (5 * LONGEST)
    p[7] = np.nan
    table = ReportTable("t", pd.DataFrame({"group": range(len(p)), "p_holm": p}), "A note.")
    short = shortened(table)
    assert set(short.rows["p_holm"]) == set(np.sort(p)[:LONGEST])
    assert short.rows["group"].is_monotonic_increasing
    assert (
        short.note
        == "A note. 300 of 1,500 rows, with the smallest p holm; all are in data/analysis."
    )
    assert shortened(table._replace(rows=table.rows[:LONGEST])).note == "A note."
    assert [*shortened(ReportTable("t", table.rows[["group"]])).rows["group"]] == [*range(LONGEST)]


def test_a_method_looks_the_same_in_every_figure():
    few, many = looks(["ptq", "qat"]), looks(["fp32", "ptq", "qat", *map(str, range(30))])
    assert few.items() <= many.items()
    assert len({*many.values()}) == len(many)


def test_every_network_is_a_dot_on_its_bar():
    rows = pd.DataFrame({"panel": "p", "group": ["a", "b"], "n": 9, "width": "int2"})
    rows = rows.assign(value=0.5, low=0.4, high=0.6)
    draw = bars_by_group("accuracy, %", percent=True)
    figure = Figure()
    draw(figure, rows.assign(seeds=[[0.1, 0.9], [0.5, 0.5]]))
    dots = [
        np.column_stack(line.get_data())
        for line in figure.axes[0].lines
        if len(line.get_xdata()) > 1
    ]
    assert [[*one[:, 1]] for one in dots if one[0, 0] == one[1, 0]] == [[10, 90], [50, 50]]
    plain = Figure()
    draw(plain, rows)
    assert len(plain.axes[0].lines) == len(figure.axes[0].lines) - 2


def test_what_is_no_point_of_a_field_is_not_in_its_legend():
    rows = pd.DataFrame({"panel": "p", "method": ["fp32", "fp16", "ptq"], "bits": [32, 16, 8]})
    rows["width"] = ["fp32", "fp16", "int8"]
    for name in ("accuracy", "fvo"):
        rows[[name, f"{name}_low", f"{name}_high"]] = 0.5
    figure = Figure()
    trade_off(figure, rows)
    assert [text.get_text() for text in figure.legends[0].texts] == ["fp32", "ptq"]


def test_a_heatmap_without_any_number_is_drawn():
    rows = pd.DataFrame({"panel": "p", "drawing": "d", "x": ["a", "b"], "y": "c", "value": np.nan})
    heatmap(Figure(), rows, signed=True)


def test_signed_numbers_are_white_at_0_and_alike_in_all_fields():
    rows = pd.DataFrame({"panel": "p", "drawing": ["a", "a", "b", "b"], "x": "x", "y": [*"uvuv"]})
    figure = Figure()
    heatmap(figure, rows.assign(value=[-1.0, 0.5, 0.0, 4.0]), signed=True)
    images = [image for ax in figure.axes for image in ax.images if ax.get_title()]
    assert [image.get_clim() for image in images] == [(-4, 4)] * 2
    assert images[1].norm(0.0) == 0.5
    for nothing in (np.nan, 0.0):
        assert "<svg" in svg(partial(heatmap, signed=True), rows.assign(value=nothing))


@pytest.fixture(scope="module")
def page() -> str:
    return render(
        answer=["Who: nobody."], drawn=[], why=[], claims=SMALL, mediated=SMALL,
        tables=[ReportTable("long", ROWS)], limits=[], hashes={},
        study=Params(
            datasets=["d"], sources={"d": {}}, models=["m"], bits=[4], seeds=[0], methods={}
        ),
    )  # fmt: skip


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
