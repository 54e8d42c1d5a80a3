import numpy as np
import pandas as pd

from quantskew.analysis.report import LONGEST, ReportTable, shortened


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
