"""The samples that quantization costs: compression-identified exemplars.

Hooker et al. 2020, "Characterising Bias in Compressed Models". One network's flip may be luck; a
sample on which several networks agree before and agree otherwise after is where compression acts.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantskew.fairness.metrics import Bools, Floats, Ints, one_hot


class Exemplars(NamedTuple):
    """Per sample (n,): the usual answer before and after, and how far the answers moved."""

    before: Ints
    after: Ints
    modal: Bools  # the usual answer changed: the sample is an exemplar
    taxicab: Floats  # 0 (same answers) to 2 (no answer in common)


def exemplars(reference: ArrayLike, variant: ArrayLike, n_classes: int) -> Exemplars:
    """Find the samples whose answer, over training seeds, is another after quantization.

    Parameters
    ----------
    reference, variant
        (S, n) and (S', n) classes predicted by the networks of each seed.
    n_classes
        K.

    Returns
    -------
    ``modal`` compares the most frequent answers. Where the answer before ties with others and one
    of them is also most frequent after, nothing is said to have changed. ``taxicab`` is the L1
    distance of the two distributions of answers over seeds, Σ_k |share before − share after|.
    """
    before, after = (one_hot(p, n_classes).mean(0) for p in (reference, variant))
    top_before, top_after = (p == p.max(-1, keepdims=True) for p in (before, after))
    shared = (top_before & top_after).any(-1)
    first, second = before.argmax(-1), after.argmax(-1)
    both = (top_before & top_after).argmax(-1)
    return Exemplars(
        np.where(shared, both, first),
        np.where(shared, both, second),
        ~shared,
        np.abs(before - after).sum(-1),
    )
