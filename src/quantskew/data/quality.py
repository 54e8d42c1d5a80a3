"""What is wrong with a data set: samples with the same pixels, and what they contradict in."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd


@dataclass(frozen=True)
class Twins:
    """Samples whose prepared pixels are equal.

    ``group`` numbers the pixels of each sample, (N,), and ``first`` is the position of the first
    sample that has them, (N,). ``conflicts`` says for each attribute whether the pixels of a sample
    are given more than one value of it, (N,).
    """

    group: np.ndarray
    first: np.ndarray
    conflicts: Mapping[str, np.ndarray]

    @property
    def twin(self) -> np.ndarray:
        """Whether another sample has these pixels, (N,)."""
        return np.asarray(np.bincount(self.group)[self.group] > 1)

    def summary(self) -> dict[str, Any]:
        """Count the groups, their rows, and the groups in conflict, in all and by attribute."""
        groups = {name: {*self.group[mask]} for name, mask in self.conflicts.items()}
        return {
            "groups": len(np.unique(self.group[self.twin])),
            "rows": int(self.twin.sum()),
            "conflicting": len(set().union(*groups.values())),
            "conflicts": {name: len(which) for name, which in groups.items() if which},
        }


def find_twins(digests: np.ndarray, attributes: Mapping[str, "pd.Series[Any]"]) -> Twins:
    """Find the samples with equal pixels, and in which attributes they disagree.

    ``digests`` are hashes of the prepared pixels, (N,), in the order in which a first twin is
    chosen.
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

    ``kept`` says which samples are in the data set all the same, (N,).
    """
    positions, ids = np.flatnonzero(twins.twin), rows["id"].to_numpy()
    second = {twins.group[p]: p for p in positions[::-1] if p != twins.first[p]}
    found = []
    for position in positions:
        first = twins.first[position]
        apart = ", ".join(name for name, mask in twins.conflicts.items() if mask[position])
        if position != first or not kept[position] or apart:
            other = second[twins.group[position]] if position == first else first
            reason = f"same pixels as {ids[other]}" + f"; these disagree in {apart}" * bool(apart)
            found.append((ids[position], reason, bool(kept[position])))
    return pd.DataFrame(found, columns=["id", "reason", "kept"])
