import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantskew.data.groups import GroupError, Groups, divided, group_codes, groupings

PEOPLE = pd.DataFrame(
    {
        "label": [0, 1, 1, 0, 2],
        "race": ["White", "Black", None, "White", "Asian"],
        "gender": pd.Categorical(["m", "f", "f", "m", "m"], ["m", "f"]),
        "age": [3, 18, 19, 59, 60],
        "site": [1.0, np.nan, 2.0, 1.0, 1.0],
    }
)


def _names(spec: str, groups: Groups | None = None) -> list[str | None]:
    codes, names = group_codes(PEOPLE, spec, groups)
    assert sorted(set(codes[codes >= 0])) == list(range(len(names)))
    return [names[code] if code >= 0 else None for code in codes]


def test_an_attribute_and_its_unknown_values():
    assert _names("race") == ["White", "Black", "unknown", "White", "Asian"]
    assert _names("race", Groups(unknown="leave_out")) == ["White", "Black", None, "White", "Asian"]
    assert _names("site") == ["1", "unknown", "2", "1", "1"]


def test_large_numbers_keep_the_digits_that_tell_them_apart():
    table = pd.DataFrame({"code": [1234567.0, 1234568.0, np.nan, 0.1]})
    assert group_codes(table, "code")[1] == ["0.1", "1234567", "1234568", "unknown"]


def test_a_number_and_its_text_are_one_group():
    codes, names = group_codes(pd.DataFrame({"site": [1.0, "2", "1", "3"]}), "site")
    assert [names[code] for code in codes] == ["1", "2", "1", "3"]


def test_a_group_cannot_have_the_name_of_everyone():
    with pytest.raises(GroupError, match=r"'site' has the value 'all', which is everyone"):
        group_codes(pd.DataFrame({"site": ["all", "one"]}), "site")


def test_the_order_of_categories_is_kept():
    assert group_codes(PEOPLE, "gender")[1] == ["m", "f"]


def test_ages_are_binned_by_default_and_by_the_edges_given():
    assert _names("age") == ["0-18", "0-18", "19-39", "40-59", "60+"]
    groups = Groups(bins={"age": (19, 60)})
    assert _names("age", groups) == ["below 19", "below 19", "19-59", "19-59", "60+"]
    groups = Groups(bins={"income": (0, 1_000_000, 1_000_001, 1_000_002)})
    _, names = group_codes(pd.DataFrame({"income": [1, 1_000_000, 1_000_001, 1_000_002]}),
                           "income", groups)  # fmt: skip
    assert names == ["0-999999", "1000000-1000000", "1000001-1000001", "1000002+"]


def test_intersections_name_both_and_leave_out_what_either_lacks():
    assert _names("race*gender")[2] == "unknown*f"
    assert _names("race * gender", Groups(unknown="leave_out"))[2] is None


def test_a_numeric_label_is_a_group_without_bins():
    table = pd.DataFrame({"label": np.arange(114)})
    assert len(group_codes(table, "label")[1]) == 114


def test_a_number_of_many_values_asks_for_bins():
    table = pd.DataFrame({"income": np.arange(100.0)})
    with pytest.raises(GroupError, match=r"bins: \{income: \["):
        group_codes(table, "income")


def test_an_unknown_attribute_is_answered_with_those_there_are():
    with pytest.raises(GroupError, match=r"'rase'; did you mean 'race'.*label, race, gender"):
        group_codes(PEOPLE, "rase*gender")


def test_small_groups_are_marked():
    groups = Groups(unknown="leave_out", minimum=2)
    codes, names = group_codes(PEOPLE, "race", groups)
    counted = divided("race", codes, names, groups, None).counted
    assert dict(zip(names, counted, strict=True)) == {"White": True, "Black": False, "Asian": False}


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), min_size=1))
def test_an_intersection_groups_as_pandas_does(rows):
    table = pd.DataFrame(rows, columns=["one", "two"])
    codes, names = group_codes(table, "one*two")
    expected = table["one"] + "*" + table["two"]
    assert [names[code] for code in codes] == expected.tolist()


def test_a_grouping_of_nobody_is_refused():
    nothing = pd.DataFrame({"race": pd.Series([None] * 5, dtype=object)})
    with pytest.raises(GroupError, match="no sample has a value of 'race'"):
        groupings(nothing, ["race"], Groups(unknown="leave_out"))
    assert groupings(nothing, ["race"], Groups())[0].names == ["unknown"]
