"""What the page shows of long tables, with its script and without."""

import json
import re
import shutil
import subprocess

import numpy as np
import pandas as pd
import pytest

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


@pytest.fixture(scope="module")
def page() -> str:
    return render(
        answer=["Who: nobody."], drawn=[], why=[], claims=SMALL, carried=SMALL,
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
