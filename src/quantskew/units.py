"""Units that samples come from, such as persons: several samples of one are not independent."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def numbered(units: ArrayLike) -> NDArray[np.int64]:
    """Number the units that samples come from, (n,); a sample without one is a unit of its own."""
    codes, names = pd.factorize(np.asarray(units))
    alone = codes < 0
    return np.where(alone, len(names) + np.cumsum(alone) - 1, codes)


def units_by_group(codes: ArrayLike, n_groups: int, units: ArrayLike | None) -> NDArray[np.int64]:
    """Count the units of each group, (G,), or its samples where each is its own unit (None).

    ``codes`` (n,) are groups from −1 (no group) to G − 1, and ``units`` (n,) codes from 0 on.
    """
    codes = np.asarray(codes)
    inside = codes >= 0
    counted = codes[inside]
    if units is not None:
        units = np.asarray(units)
        many = units.max(initial=0) + 1
        counted = np.unique(counted * many + units[inside]) // many
    return np.bincount(counted, minlength=n_groups)
