import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F  # noqa: N812

from quantskew.impact import logits

N, K, GROUPS = 60, 5, 4


@pytest.fixture
def data():
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 3, (N, K))
    variant = reference + rng.normal(0, 1, (N, K))
    variant[[3, 17]] = 0
    return variant, reference, rng.integers(0, K, N), rng.integers(-1, GROUPS - 1, N)


def _one(z, r, y):
    """One sample's row, in plain Python."""
    dot = sum(a * b for a, b in zip(z, r, strict=True))
    norms = math.sqrt(sum(a * a for a in z)) * math.sqrt(sum(b * b for b in r))
    exponentials = [math.exp(a) for a in z]
    softmax = [e / sum(exponentials) for e in exponentials]

    def variance(values):
        mean = sum(values) / len(values)
        return sum((v - mean) ** 2 for v in values) / len(values)

    return {
        "null_logits": norms == 0,
        "cosine_distance": 1 - dot / norms if norms else math.nan,
        "l1_distance": sum(abs(a - b) for a, b in zip(z, r, strict=True)),
        "l2_distance": math.sqrt(sum((a - b) ** 2 for a, b in zip(z, r, strict=True))),
        "logit_variance": variance(z),
        "softmax_variance": variance(softmax),
        "top_probability": max(softmax),
        "true_probability": softmax[y],
        "loss": -math.log(softmax[y]),
        "correct": max(range(len(z)), key=lambda k: z[k]) == y,
    }


def test_equals_a_loop_over_samples_and_groups(data):
    variant, reference, labels, groups = data
    rows = [_one(*each) for each in zip(variant.tolist(), reference.tolist(), labels, strict=True)]
    samples = logits.per_sample(variant, reference, labels)
    for name in rows[0]:
        expected = [row[name] for row in rows]
        np.testing.assert_allclose(samples[name], expected, atol=1e-12, err_msg=name)

    table = logits.by_group(samples, groups, GROUPS)
    for g in range(GROUPS):
        of_group = [row for row, code in zip(rows, groups, strict=True) if code == g]
        assert table.loc[g, "n"] == len(of_group)
        assert table.loc[g, "null_logits"] == sum(row["null_logits"] for row in of_group)
        for name in set(rows[0]) - {"null_logits", "correct"}:
            defined = [row[name] for row in of_group if not math.isnan(row[name])]
            mean = sum(defined) / len(defined) if defined else math.nan
            assert table.loc[g, name] == pytest.approx(mean, nan_ok=True), name


def test_agrees_with_torch_and_takes_its_tensors(data):
    variant, reference, labels, _ = data
    z, r, y = torch.tensor(variant), torch.tensor(reference), torch.tensor(labels)
    samples = logits.per_sample(z, r, y)
    np.testing.assert_allclose(samples["loss"], F.cross_entropy(z, y, reduction="none"))
    apart = (1 - F.cosine_similarity(z, r)).numpy()
    apart[samples["null_logits"]] = np.nan
    np.testing.assert_allclose(samples["cosine_distance"], apart)


def test_null_logits_are_counted_and_left_out_of_the_mean():
    zero = np.zeros((2, 3))
    reference = np.array([[1.0, 0, 0], [0, 1.0, 0], [0, 2.0, 0]])
    samples = logits.per_sample(np.vstack([zero, [[0, -3.0, 0]]]), reference, [0, 1, 1])
    table = logits.by_group(samples, [0, 1, 1], 3)
    assert table["null_logits"].tolist() == [1, 1, 0]
    assert table["cosine_distance"].tolist() == pytest.approx([math.nan, 2, math.nan], nan_ok=True)
    assert table["n"].tolist() == [1, 2, 0]
    assert table.loc[2].drop(["n", "null_logits"]).isna().all()
    assert table.loc[0, "loss"] == pytest.approx(math.log(3))


@given(st.floats(-8, 8), st.integers(0, 2**32 - 1))
def test_the_angle_ignores_scale_and_the_distances_follow_it(exponent, seed):
    scale = 10.0**exponent
    rng = np.random.default_rng(seed)
    variant, reference = rng.normal(size=(2, 8, K))
    labels = rng.integers(0, K, 8)
    plain = logits.per_sample(variant, reference, labels)
    scaled = logits.per_sample(scale * variant, scale * reference, labels)
    np.testing.assert_allclose(scaled["cosine_distance"], plain["cosine_distance"], atol=1e-12)
    for name in ("l1_distance", "l2_distance"):
        np.testing.assert_allclose(scaled[name], scale * plain[name])
    assert plain["cosine_distance"].between(0, 2).all()


def test_large_logits_do_not_overflow():
    samples = logits.per_sample([[1e4, -1e4]], [[1.0, 1.0]], [1])
    assert samples.loc[0, "loss"] == pytest.approx(2e4)
    assert samples.loc[0, "true_probability"] == 0


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(-1, 2)), min_size=1), st.integers(1, 30))
def test_boundary_histograms_are_those_of_numpy(rows, bins):
    distance, groups = (np.array(column) for column in zip(*rows, strict=True))
    # numpy takes its edges as floats; keep clear of them, where the two may round apart
    distance = (np.floor(distance * bins).clip(max=bins - 1) + 0.5) / bins
    counts = logits.boundary_histograms(distance, groups, 3, bins=bins)
    for g in range(3):
        expected, _ = np.histogram(distance[groups == g], bins=bins, range=(0, 1))
        assert counts[g].tolist() == expected.tolist()


def test_both_ends_of_the_boundary_histogram_count():
    assert logits.boundary_histograms([0.0, 1.0], [0, 0], 1, bins=4).tolist() == [[1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": [0, 3]}, r"row 1: label 3 is not in 0 … 2"),
        ({"logits": np.zeros((2, 4))}, r"got \(2, 4\), \(2, 3\) and \(2,\)"),
        ({"logits": np.zeros(3)}, r"logits must be \(n, K\); got shape \(3,\)"),
        ({"reference": [[0, 0, 0], [0, math.inf, 0]]}, "reference are NaN or infinite in 1 of 2 "),
    ],
)
def test_refuses_what_does_not_fit(changed, message):
    fits = {"logits": np.ones((2, 3)), "reference": np.ones((2, 3)), "labels": [0, 1]}
    with pytest.raises(ValueError, match=message):
        logits.per_sample(**{**fits, **changed})


def test_refuses_codes_of_no_group():
    samples = logits.per_sample(np.ones((2, 3)), np.ones((2, 3)), [0, 1])
    with pytest.raises(ValueError, match="row 1: group 2 is not in 0 … 1, nor −1"):
        logits.by_group(samples, [0, 2], 2)
    with pytest.raises(ValueError, match=r"groups must be \(2,\)"):
        logits.by_group(samples, [0], 2)
