from itertools import permutations

import numpy as np
import pytest

from quantskew.fairness.catalogue import values
from quantskew.fairness.gaps import (
    Paired,
    accuracy_rates,
    against_rest_limits,
    as_one_rate,
    gap_change_limits,
    gap_limits,
    largest_loss_limits,
    may_lose_most,
    parity_rates,
    ratio_limits,
    rest_rates,
    worst_group_change_limits,
    worst_group_limits,
)
from quantskew.fairness.limits import Changes, Shares, change_limits, changes, share_limits, shares
from quantskew.fairness.metrics import fvo
from quantskew.fairness.parity import Answers

TAIL = 0.025


@pytest.fixture
def rates() -> Paired:
    rng = np.random.default_rng(0)
    before = rng.random(2000) < 0.85
    groups = rng.integers(0, 4, 2000)
    after = before ^ (rng.random(2000) < np.where(groups == 3, 0.15, 0.03))
    return accuracy_rates(before, after, groups, 4)


def pair(p, q, limits_p, limits_q):
    """Limits of p − q by MOVER."""
    (lp, up), (lq, uq) = limits_p, limits_q
    return (
        p - q - np.sqrt((p - lp) ** 2 + (uq - q) ** 2),
        p - q + np.sqrt((up - p) ** 2 + (q - lq) ** 2),
    )


def of(limits, g):
    return limits.low[g], limits.high[g]


def test_the_gap_is_bounded_pair_by_pair(rates):
    a = rates.after
    found = gap_limits(as_one_rate(rates).after, [True] * 4, TAIL)
    wide = share_limits(a, TAIL)
    narrow = share_limits(a, TAIL / 12)
    pairs = list(permutations(range(4), 2))
    high = max(pair(a.value[g], a.value[h], of(wide, g), of(wide, h))[1] for g, h in pairs)
    low = max(pair(a.value[g], a.value[h], of(narrow, g), of(narrow, h))[0] for g, h in pairs)
    assert (found.low, found.high) == (pytest.approx(max(low, 0)), pytest.approx(high))
    assert found.low <= fvo(a.value, [True] * 4) <= found.high


def test_the_change_of_the_gap_is_bounded_pair_by_pair(rates):
    found = gap_change_limits(as_one_rate(rates), [True] * 4, TAIL)

    def rise(before, after, change):
        """Every pair of pairs, group by group of the four that they name."""
        error = 0.2 * TAIL / 12
        old, new = (share_limits(side, error) for side in (before, after))
        both = change_limits(change, error)
        paired = change_limits(change, 0.8 * TAIL, jeffreys=True)
        m, w = before.value.argmax(), before.value.argmin()
        ends = []
        for g, h in permutations(range(4), 2):
            own = pair(change.value[g], change.value[h], of(paired, g), of(paired, h))[1]
            margins = dict.fromkeys(range(4), 0.0)
            for group, sign in ((g, 1), (h, -1)):
                if (group, sign) in ((m, 1), (w, -1)):
                    end = both.high if sign == 1 else both.low
                    margins[group] = sign * (end[group] - change.value[group])
                else:
                    end = new.high if sign == 1 else new.low
                    margins[group] = sign * (end[group] - after.value[group])
            if m != g:
                margins[m] += before.value[m] - old.low[m]
            if w != h:
                margins[w] += old.high[w] - before.value[w]
            level = after.value[g] - after.value[h] - before.value[m] + before.value[w]
            ends.append(min(own, level + np.sqrt(sum(x**2 for x in margins.values()))))
        return max(ends)

    lost, gained, n = rates.changes
    assert found.high == pytest.approx(rise(*rates))
    assert found.low == pytest.approx(-rise(rates.after, rates.before, Changes(gained, lost, n)))
    rose = np.ptp(rates.after.value) - np.ptp(rates.before.value)
    assert found.low <= rose <= found.high


def test_the_worst_group_is_bounded_group_by_group(rates):
    counted = [True] * 4
    found = worst_group_limits(rates.after, counted, TAIL)
    assert found.low == share_limits(rates.after, TAIL).low.min()
    assert found.high == share_limits(rates.after, TAIL / 4).high.min()
    change = worst_group_change_limits(rates, counted, TAIL)
    fell = rates.after.value.min() - rates.before.value.min()
    assert change.low <= fell <= change.high < 0
    back = worst_group_change_limits(rates.swapped(), counted, TAIL)
    assert (back.low, back.high) == (pytest.approx(-change.high), pytest.approx(-change.low))


def test_who_loses_most_is_named_if_it_can_be_told(rates):
    assert may_lose_most(rates.changes, [True] * 4, 0.05).tolist() == [False] * 3 + [True]
    few = rates.changes._replace(n=rates.changes.n / 40)
    assert may_lose_most(few, [True] * 4, 0.05).sum() > 1
    assert may_lose_most(rates.changes, [True] * 3 + [False], 0.05)[:3].any()
    assert not may_lose_most(rates.changes, [False] * 4, 0.05).any()


def test_the_largest_loss_passes_without_a_correction_and_fails_with_one(rates):
    found = largest_loss_limits(rates.changes, [True] * 4, 0.05)
    assert found.high == -change_limits(rates.changes, 0.05).low.min()
    assert found.low == -change_limits(rates.changes, 0.05 / 4).high.min()


def test_groups_that_are_not_counted_or_empty_do_not_enter(rates):
    apart = [True, True, True, False]
    found = gap_limits(as_one_rate(rates).after, apart, TAIL)
    alone = Shares(rates.after.value[None, :3], rates.after.n[None, :3])
    assert found == gap_limits(alone, [True] * 3, TAIL)
    none = Shares(np.array([[0.9, np.nan]]), np.array([[50.0, 0.0]]))
    assert np.isnan(gap_limits(none, [True] * 2, TAIL)).all()
    assert np.isnan(ratio_limits(none, [True] * 2, TAIL)).all()
    assert np.isnan(gap_change_limits(as_one_rate(rates), [True] + [False] * 3, TAIL)).all()
    assert np.isnan(worst_group_limits(rates.after, [False] * 4, TAIL)).all()
    assert np.isnan(worst_group_change_limits(rates, [False] * 4, TAIL)).all()
    assert np.isnan(largest_loss_limits(rates.changes, [False] * 4, TAIL)).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_parity_rates_are_those_of_the_metrics(n_classes):
    rng = np.random.default_rng(4)
    labels, first, second = rng.integers(0, n_classes, (3, 900))
    groups = rng.integers(-1, 3, 900)
    counted = [True] * 3
    found = parity_rates(labels, first, second, groups, n_groups=3, n_classes=n_classes)
    for answers, side in ((first, 0), (second, 1)):
        given = Answers(labels, answers[None], groups, np.array(counted), n_classes)
        expected = {name: value[0] for name, value in values(given).items()}
        for name, rates in found.items():
            widest = np.ptp(rates[side].value, axis=-1).max()
            assert widest == pytest.approx(expected[f"{name}_worst"].item()), name
            low, high = gap_limits(rates[side], counted, TAIL)
            assert low <= widest <= high
    for rates in found.values():
        value = rates.after.value - rates.before.value
        assert rates.changes.value == pytest.approx(value)


def test_impact_is_a_ratio_and_no_rate_is_too_small():
    rates = Shares(np.array([[0.5, 0.1, 0.0]]), np.array([[400.0, 400.0, 400.0]]))
    low, high = ratio_limits(rates, [True] * 3, TAIL)
    assert low < 0.01
    assert 0 < high < 0.05
    low, high = ratio_limits(rates, [True, True, False], TAIL)
    assert low < 0.2 < high


def test_against_the_rest_is_a_difference_of_two_independent_changes():
    rng = np.random.default_rng(5)
    before = rng.random(600) < 0.8
    groups = rng.integers(-1, 3, 600)
    after = before & ~((groups == 1) & (rng.random(600) < 0.3))
    low, high = against_rest_limits(rest_rates(before, after, groups, 3).changes, TAIL)
    change = after.astype(float) - before
    for g in range(3):
        rest = (groups >= 0) & (groups != g)
        estimate = change[groups == g].mean() - change[rest].mean()
        assert low[g] < estimate < high[g]
    assert high[1] < 0 < low[0]
    assert changes(before, after, groups, 3).value[1] < 0


def test_seeds_and_units_enter_the_gap():
    rng = np.random.default_rng(6)
    right = np.repeat(rng.random(200) < 0.8, 3)
    groups, units = np.repeat(np.arange(2), 300), np.repeat(np.arange(200), 3)
    alone = Shares(*(x[None] for x in shares(right, groups, 2)))
    person = Shares(*(x[None] for x in shares(right, groups, 2, units=units)))
    assert np.ptp(gap_limits(person, [1, 1], TAIL)) > 1.3 * np.ptp(gap_limits(alone, [1, 1], TAIL))
