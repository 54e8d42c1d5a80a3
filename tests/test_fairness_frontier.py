import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mode

from quantskew.fairness.exemplars import exemplars
from quantskew.fairness.frontier import frontier_probability, on_frontier

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


def test_probability_is_the_share_of_draws():
    draws = np.array([[[1.0, 1], [2, 1]], [[3, 1], [2, 1]], [[2, 1], [2, 1]], [[1, 1], [2, 1]]])
    np.testing.assert_allclose(frontier_probability(draws, [True, True]), [0.5, 0.75])


def test_exemplars_are_where_the_usual_answer_changed():
    rng = np.random.default_rng(0)
    before, after = rng.integers(3, size=(2, 7, 200))
    found = exemplars(before, after, 3)
    for t in range(200):
        counts = [np.bincount(p[:, t], minlength=3) / 7 for p in (before, after)]
        tops = [set(np.flatnonzero(c == c.max())) for c in counts]
        assert found.modal[t] == (not tops[0] & tops[1])
        assert found.before[t] in tops[0]
        assert found.after[t] in tops[1]
        assert found.modal[t] == (found.before[t] != found.after[t])
        np.testing.assert_allclose(found.taxicab[t], abs(counts[0] - counts[1]).sum())
    clear = (np.sort(counts_of(before), axis=0)[-1] > 3) & (np.sort(counts_of(after), 0)[-1] > 3)
    expected = mode(before, axis=0).mode != mode(after, axis=0).mode
    np.testing.assert_array_equal(found.modal[clear], expected[clear])


def counts_of(predictions):
    return np.stack([(predictions == k).sum(0) for k in range(3)])
