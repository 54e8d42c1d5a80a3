"""The command ``quantskew plan``: how many images and seeds a study needs, in lines of text."""

import math
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from quantskew import tables
from quantskew.errors import UserError
from quantskew.fairness.plan import images_from_pilot, images_to_certify, seeds_to_decide


def from_pilot(
    path: Path, loss: float, *, method: str, alpha: float = 0.05, power: float = 0.8
) -> Iterator[str]:
    """Say for each group of a pilot how many more images would certify that it loses less.

    ``path`` is a table ``certificates``, which a study writes to ``data/analysis``, and ``loss``
    the share of accuracy, 0..1, that no group is to lose. Of the networks of the ``method``, the
    seed that asks most decides. ``alpha`` is the error of all bounds of a grouping together, and
    ``power`` the chance of success wanted.

    Raises
    ------
    UserError
        When the table has no judged group of the method.
    """
    columns = ["dataset", "model", "method", "bits", "attribute", "group", "n", "lost", "gained",
               "units", "effective"]  # fmt: skip
    rows = tables.read("certificates", path, [*columns, "bound"]).to_pandas()
    own = rows[(rows["method"] == method) & rows["bound"].notna()]
    if own.empty:
        known = ", ".join(sorted(rows["method"].unique())) or "none"
        raise UserError(f"{path}: no group of the method {method!r} is judged; methods: {known}")
    yield from of_rows(own, loss, alpha=alpha, power=power)


def of_rows(
    rows: pd.DataFrame,
    loss: float,
    *,
    alpha: float = 0.05,
    power: float = 0.8,
    heading: str = "{dataset} {model} {method} {bits} bits, {attribute}:",
) -> Iterator[str]:
    """Say the same as :func:`from_pilot` of rows of a table ``certificates``, under headings."""
    place_of = ["dataset", "model", "method", "bits", "attribute"]
    for place, part in rows.groupby(place_of, sort=False):
        share = alpha / part["group"].nunique()
        yield heading.format(**dict(zip(place_of, place, strict=True)))
        apart = bool((part["units"] < part["n"]).any())
        for group, of in part.groupby("group", sort=False):
            images = max(
                images_from_pilot(
                    row.lost, row.gained, row.n, loss,
                    effective=row.effective if apart else None, alpha=share, power=power,
                )
                for row in of.itertuples()
            )  # fmt: skip
            yield f"  {group}: {_more(images, loss, *of[['n', 'units']].iloc[0], apart=apart)}"


def _more(images: float, loss: float, n: int, units: int, *, apart: bool) -> str:
    there = f"(there are {n:,}{f' of {units:,} units' if apart else ''})"
    if images == 0:
        return f"enough {there}"
    if math.isinf(images):
        return f"no number of images, as it may lose {100 * loss:g} points {there}"
    of = f" of {math.ceil(images * units / n):,} more units" if apart else ""
    return f"about {images:,.0f} more images{of} {there}"


def from_rate(
    flips: float,
    loss: float,
    *,
    groups: int = 1,
    images_per_unit: float = 1.0,
    correlation: float = 0.0,
    alpha: float = 0.05,
    power: float = 0.8,
) -> str:
    """Say how many images of each group would certify a loss, at an assumed rate of flips.

    Parameters are those of :func:`quantskew.fairness.plan.images_to_certify`; the bounds of
    ``groups`` groups hold at once.
    """
    if not (groups >= 1 and images_per_unit >= 1 and 0 <= correlation <= 1):
        raise UserError(
            f"{groups} groups, {images_per_unit:g} images a unit, correlation {correlation:g}; "
            "at least 1 each, and a correlation from 0 to 1"
        )
    images = images_to_certify(
        loss, flips, alpha=alpha / groups, power=power,
        images_per_unit=images_per_unit, correlation=correlation,
    )  # fmt: skip
    text = f"{images:,.0f} images of each group"
    if images_per_unit > 1:
        text += f", of {math.ceil(images / images_per_unit):,} units"
    return f"{text}, to certify a loss below {100 * loss:g} points at {100 * (1 - alpha):g} %"


def of_seeds(
    difference: float, seed_sd: float, *, common_sd: float = 0.0, models: int = 1, alpha: float,
    power: float,
) -> str:  # fmt: skip
    """Say how many seeds of each model would decide a claim about methods.

    Parameters are those of :func:`quantskew.fairness.plan.seeds_to_decide`.
    """
    seeds = seeds_to_decide(
        difference, seed_sd, common_sd=common_sd, models=models, alpha=alpha, power=power
    )
    if math.isinf(seeds):
        return "no number of seeds: the test samples are too few for a difference of this size"
    return f"{seeds:,.0f} seeds, to show a difference of {100 * difference:g} points"
