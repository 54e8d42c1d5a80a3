import numpy as np
import pytest
import torch

from quantskew.impact import weights


@pytest.fixture
def networks():
    generator = torch.Generator().manual_seed(0)
    original = {
        "stem": torch.randn(4, 3, 3, 3, generator=generator),
        "head": torch.randn(5, 4, generator=generator),
    }
    return original, {name: (w / 0.7).round() * 0.7 for name, w in original.items()}


def test_equals_a_loop_over_the_weights(networks):
    original, dequantized = networks
    rows = weights.compare(original, dequantized).set_index("layer")
    total, zeros, count = 0.0, 0, 0
    for name in original:
        before, after = original[name].flatten().tolist(), dequantized[name].flatten().tolist()
        change = sum(abs(b - a) for a, b in zip(before, after, strict=True))
        squares = sum((b - a) ** 2 for a, b in zip(before, after, strict=True))
        assert rows.loc[name, "absolute_change"] == pytest.approx(change)
        assert rows.loc[name, "relative_error"] == pytest.approx(
            (squares / sum(a * a for a in before)) ** 0.5
        )
        assert rows.loc[name, "sparsity"] == sum(b == 0 for b in after) / len(after)
        total, zeros, count = total + change, zeros + after.count(0), count + len(after)
    whole = rows.loc[weights.WHOLE]
    assert whole["absolute_change"] == pytest.approx(total)
    assert whole["sparsity"] == zeros / count
    assert whole["weights"] == count
    assert whole["original_sparsity"] == 0


def test_an_untouched_network_has_not_moved(networks):
    rows = weights.compare(networks[0], networks[0])
    assert (rows[["absolute_change", "relative_error"]] == 0).all(axis=None)


def test_the_relative_error_of_a_zero_layer_is_undefined():
    zero = {"layer": torch.zeros(3)}
    rows = weights.compare(zero, {"layer": torch.ones(3)})
    assert rows["relative_error"].isna().all()
    assert (rows["original_sparsity"] == 1).all()


def test_histograms_share_their_edges_and_lose_no_weight(networks):
    original, _ = networks
    edges = weights.histogram_edges(original, bins=8)
    for network in networks:
        counts = weights.histograms(network, edges)
        assert {name: c.sum() for name, c in counts.items()} == {
            "stem": 108,
            "head": 20,
            weights.WHOLE: 128,
        }
    inner = torch.from_numpy(edges["stem"])
    expected = torch.histogram(original["stem"].double(), inner).hist
    assert weights.histograms(original, edges)["stem"].tolist() == expected.tolist()


def test_a_layer_of_one_value_has_edges():
    edges = weights.histogram_edges({"gamma": torch.ones(7)}, bins=4)
    assert np.all(np.diff(edges["gamma"]) > 0)
    assert weights.histograms({"gamma": torch.ones(7)}, edges)["gamma"].sum() == 7


def test_errors_name_the_layer(networks):
    original, dequantized = networks
    with pytest.raises(ValueError, match="only one has head"):
        weights.compare(original, {"stem": dequantized["stem"]})
    with pytest.raises(ValueError, match=r"'head' is \(5, 4\) in the original and \(4, 5\)"):
        weights.compare(original, {**dequantized, "head": dequantized["head"].T})
    bad = dequantized["head"].clone()
    bad[0, 0] = torch.nan
    with pytest.raises(ValueError, match="'head' holds 1 weights that are NaN"):
        weights.compare(original, {**dequantized, "head": bad})
