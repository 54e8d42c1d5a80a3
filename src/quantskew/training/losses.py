"""What training minimizes."""

import numpy as np
import torch
from torch import Tensor

HARDEST = 6.0


def difficulty_weights(accuracy: np.ndarray) -> Tensor:
    """Weights of the cross-entropy that favour the hardest class (WCR).

    Bellam & Kim (§5.1) give the hardest of five classes 0.6 and the others 0.1 each. The same
    ratio of six holds here for any number of classes; the weights add up to one.

    Parameters
    ----------
    accuracy
        (classes,), accuracy of each class over the course of training; the lowest is the hardest.

    Examples
    --------
    >>> difficulty_weights(np.array([0.9, 0.8, 0.9, 0.5, 0.9]))
    tensor([0.1000, 0.1000, 0.1000, 0.6000, 0.1000])
    """
    weights = torch.ones(len(accuracy))
    weights[int(np.nanargmin(accuracy))] = HARDEST
    return weights / weights.sum()


def check_class_weights(weights: tuple[float, ...], classes: tuple[str, ...]) -> Tensor:
    """Class weights given by the user, one a class.

    Raises
    ------
    ValueError
        When their number is not that of the classes.
    """
    if len(weights) != len(classes):
        raise ValueError(
            f"class_weights: got {len(weights)} numbers for {len(classes)} classes "
            f"({', '.join(classes)})"
        )
    return torch.tensor(weights)
