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


def test_a_histogram_spans_the_original_and_loses_no_weight(networks):
    original, _ = networks
    values = torch.cat([w.flatten() for w in original.values()]).double()
    for network in networks:
        rows = weights.histogram(original, network, 8)
        assert rows["count"].sum() == 128
        assert [rows["low"].min(), rows["high"].max()] == [values.min(), values.max()]
    edges = torch.from_numpy(np.append(rows["low"], rows["high"].iloc[-1]))
    expected = torch.histogram(values, edges).hist
    assert weights.histogram(original, original, 8)["count"].tolist() == expected.tolist()


def test_weights_of_one_value_have_a_histogram():
    ones = {"gamma": torch.ones(7)}
    rows = weights.histogram(ones, ones, 4)
    assert (rows["low"] < rows["high"]).all()
    assert rows["count"].sum() == 7


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


def test_a_layer_that_bears_the_name_of_all_is_refused(networks):
    original, dequantized = ({"all": each["head"]} for each in networks)
    with pytest.raises(ValueError, match="a layer is named 'all'"):
        weights.compare(original, dequantized)
