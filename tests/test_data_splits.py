import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quantskew.data.splits import PAPER_FRACTIONS, stratified, thin, units

MNIST = (5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949)


def test_the_paper_profile_gives_the_published_counts():
    mnist = np.repeat(np.arange(10), MNIST)
    assert thin(mnist, PAPER_FRACTIONS, seed=0).sum() == 23_782
    assert thin(np.repeat(np.arange(10), 5000), PAPER_FRACTIONS, seed=0).sum() == 19_374


def test_thinning_keeps_the_share_of_each_class_and_depends_on_the_seed():
    labels = np.tile([0, 1, 2], 300)
    keep = thin(labels, (1, 1 / 3, 0.25), seed=1)
    assert np.bincount(labels[keep]).tolist() == [300, 100, 75]
    assert (keep == thin(labels, (1, 1 / 3, 0.25), seed=1)).all()
    assert (keep != thin(labels, (1, 1 / 3, 0.25), seed=2)).any()


@given(
    st.lists(st.integers(0, 2), min_size=12, max_size=60),
    st.integers(0, 5),
    st.floats(0.1, 0.9),
)
def test_a_split_is_stratified_and_tears_no_unit_apart(labels, seed, fraction):
    labels = np.array([0, 0, 1, 1, 2, 2, *labels])
    whole = np.arange(len(labels))
    test = stratified(labels, whole, fraction, seed)
    for label in range(3):
        count = (labels == label).sum()
        assert abs(test[labels == label].sum() - fraction * count) <= 1
        assert 0 < test[labels == label].sum() < count
    pairs = whole // 2
    test = stratified(np.repeat(labels, 2), np.repeat(whole, 2), fraction, seed)
    assert (test[::2] == test[1::2]).all()
    assert len(pairs) == len(labels)


def test_a_class_of_one_unit_is_all_in_training():
    test = stratified(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]), 0.5, 0)
    assert test[:2].sum() == 1
    assert not test[2:].any()


def test_units_of_several_classes_count_for_their_rarest_where_a_class_would_have_none():
    labels = np.array([0, 1, 0, 1, 0, 2, 0, 2, 0, 0])
    units = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 5])
    for seed in range(20):
        test = stratified(labels, units, 0.5, seed)
        for label in range(3):
            assert 0 < test[labels == label].sum() < (labels == label).sum()


def test_units_link_through_others():
    twins = np.array([0, 1, 1, 2, 3, 4])
    person = np.array([7, 7, 8, 9, 9, 5])
    found = units(twins, person)
    assert len(set(found[:3])) == 1
    assert found[3] == found[4]
    assert len(set(found)) == 3
    assert len(set(units(np.array([4, 4, 2])))) == 2
