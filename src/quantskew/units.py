"""Units that samples come from, such as persons: several samples of one are not independent."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray


def numbered(units: ArrayLike) -> NDArray[np.int64]:
    """Number the units that samples come from, (n,); a sample without one is a unit of its own."""
    codes, names = pd.factorize(np.asarray(units))
    alone = codes < 0
    return np.where(alone, len(names) + np.cumsum(alone) - 1, codes)
