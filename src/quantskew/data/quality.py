"""What is wrong with a data set: samples with the same pixels, and what they contradict in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Twins:
    """Samples whose prepared pixels are equal.

    Attributes
    ----------
    group
        N numbers, the same for the same pixels.
    first
        N positions of the first sample with these pixels.
    conflicts
        Attribute to N booleans: its pixels are given more than one value of it.
    """

    group: np.ndarray
    first: np.ndarray
    conflicts: Mapping[str, np.ndarray]

    @property
    def twin(self) -> np.ndarray:
        """N booleans: another sample has these pixels."""
        return np.bincount(self.group)[self.group] > 1

    def summary(self) -> dict[str, Any]:
        """Count the groups, their rows, and the groups in conflict, in all and by attribute."""
        twin = self.twin
        disagree = np.zeros(len(twin), bool)
        by = {}
        for name, mask in self.conflicts.items():
            by[name] = len(np.unique(self.group[mask]))
            disagree |= mask
        return {
            "groups": len(np.unique(self.group[twin])),
            "rows": int(twin.sum()),
            "conflicting": len(np.unique(self.group[disagree])),
            "conflicts": {name: count for name, count in by.items() if count},
        }


def find_twins(digests: np.ndarray, attributes: Mapping[str, "pd.Series[Any]"]) -> Twins:
    """Find the samples with equal pixels.

    Parameters
    ----------
    digests
        N hashes of the prepared pixels, in the order in which a first twin is to be chosen.
    attributes
        Name to N values, in which twins should agree.
    """
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    conflicts = {}
    for name, given in attributes.items():
        codes = pd.factorize(given, use_na_sentinel=False)[0]
        values = pd.Series(codes).groupby(group)
        conflicts[name] = (values.transform("max") > values.transform("min")).to_numpy()
    return Twins(group, first[group], conflicts)


def findings(twins: Twins, rows: pd.DataFrame, kept: np.ndarray) -> pd.DataFrame:
    """Rows for the table of rejects: what has the pixels of an earlier sample, or contradicts one.

    Parameters
    ----------
    kept
        N booleans: the sample is in the data set all the same.
    """
    positions = np.flatnonzero(twins.twin)
    second = {twins.group[p]: p for p in positions[::-1] if p != twins.first[p]}
    found = []
    for position in positions:
        first = twins.first[position]
        apart = [name for name, mask in twins.conflicts.items() if mask[position]]
        if position == first and kept[position] and not apart:
            continue
        other = second[twins.group[position]] if position == first else first
        reason = f"same pixels as {rows['id'].iloc[other]}"
        if apart:
            reason += f"; these disagree in {', '.join(apart)}"
        found.append((rows["id"].iloc[position], reason, bool(kept[position])))
    return pd.DataFrame(found, columns=["id", "reason", "kept"])
