import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantskew.fairness.frontier import on_frontier

ROWS = st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=9)


@given(ROWS)
def test_on_the_frontier_is_who_is_dominated_by_nobody(rows):
    maximize = (True, False, True)

    def dominates(one, two):
        better = [a > b if up else a < b for a, b, up in zip(one, two, maximize, strict=True)]
        worse = [a < b if up else a > b for a, b, up in zip(one, two, maximize, strict=True)]
        return any(better) and not any(worse)

    expected = [not any(dominates(other, row) for other in rows) for row in rows]
    np.testing.assert_array_equal(on_frontier(rows, maximize), expected)


def test_an_unknown_value_is_off_the_frontier_and_beats_nobody():
    values = [[0.9, np.nan], [0.8, 3.0]]
    np.testing.assert_array_equal(on_frontier(values, [True, False]), [False, True])
