r"""How tables are written: in LaTeX for papers, in Markdown for pages, in cells of the HTML report.

Names of data sets, methods and groups come out as they are, whatever signs they hold. A LaTeX
document needs ``\usepackage{booktabs, siunitx}`` and ``\input`` of the file.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

_MARKS = re.compile(r"[\\`*<>|$~&]|\](?=[(\[:])|\b_(?!\w)|(?<!\w)_")


def points(share: float) -> str:
    """Write a change of a share in signed percentage points; nothing for NaN.

    Examples
    --------
    >>> points(-0.1234), points(0.00004), points(float("nan"))
    ('−12.3', '+0.0', '')
    """
    if np.isnan(share):
        return ""
    return f"{round(100 * share, 1) + 0.0:+.1f}".replace("-", "−")


def interval(value: float, low: float, high: float) -> str:
    """Write a change with its limits, in points.

    Examples
    --------
    >>> interval(-0.391, -0.434, -0.329)
    '−39.1 [−43.4, −32.9]'
    """
    if np.isnan(low) or np.isnan(high):
        return points(value)
    return f"{points(value)} [{points(low)}, {points(high)}]"


def about(number: float) -> str:
    """Write how many samples or networks would decide; nothing for NaN.

    Examples
    --------
    >>> about(1234.0), about(np.inf)
    ('about 1,234', 'no number would')
    """
    if np.isnan(number):
        return ""
    return f"about {number:,.0f}" if np.isfinite(number) else "no number would"


def decimal(value: float, sign: str = "") -> str:
    """Write a number with three decimals, after ``+`` or ``−`` where it is a change.

    Examples
    --------
    >>> decimal(0.12345), decimal(-0.0004, "+"), decimal(float("nan"))
    ('0.123', '+0.000', '–')
    """
    return "–" if np.isnan(value) else f"{round(value, 3) + 0.0:{sign}.3f}".replace("-", "−")


def in_units(value: float, low: float, high: float) -> str:
    """Write a change with its limits, in its own unit.

    Examples
    --------
    >>> in_units(-0.391, -0.434, -0.329)
    '−0.391 [−0.434, −0.329]'
    """
    return f"{decimal(value, '+')} [{decimal(low, '+')}, {decimal(high, '+')}]"


def percent(share: float) -> str:
    """Write a share in percent; nothing for NaN."""
    return "" if np.isnan(share) else f"{100 * share:.1f} %"


def number(value: Any) -> str:
    """Write a number with at most two decimals, thousands separated; nothing for NaN.

    Examples
    --------
    >>> number(1234567), number(0.14286), number(3.0), number(float("nan")), number(0.0004)
    ('1,234,567', '0.14', '3', '', '< 0.01')
    """
    if value is None or np.isnan(value):
        return ""
    if not np.isfinite(value):
        return "no number"
    if 0 < abs(value) < 0.01:
        return "< 0.01" if value > 0 else "> −0.01"
    shown = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.2f}".rstrip("0").rstrip(".")
    return shown.replace("-", "−")


def p_value(value: float) -> str:
    """Write a p-value, never as 0; nothing for NaN."""
    return "" if np.isnan(value) else "< 0.01" if value < 0.01 else f"{value:.2f}"


def size(value: float) -> str:
    """Write a number of bytes.

    Examples
    --------
    >>> size(713_000), size(45_100_000)
    ('713 kB', '45.1 MB')
    """
    if np.isnan(value):
        return ""
    return f"{value / 1e6:,.1f} MB" if value >= 1e6 else f"{value / 1e3:,.0f} kB"


def groups_named(attribute: str, names: list[str]) -> str:
    """Say which group it is, or which it may be, from the likeliest on.

    Examples
    --------
    >>> groups_named("race", ["Asian"]), groups_named("digit", ["9", "6"])
    ('race group Asian', 'digit group 9 or 6 (cannot be told apart)')
    >>> groups_named("digit", list("3210456"))
    'digit group 3 or any of 6 others (cannot be told apart)'
    """
    if len(names) == 1:
        return f"{attribute} group {names[0]}"
    few = f"{', '.join(names[:-1])} or {names[-1]}"
    told = few if len(names) <= 5 else f"{names[0]} or any of {len(names) - 1} others"
    return f"{attribute} group {told} (cannot be told apart)"


def escape_markdown(text: str) -> str:
    r"""Return the Markdown that shows a text as it is, on one line.

    Examples
    --------
    >>> print(escape_markdown("$10%-$20%"), escape_markdown("a|b"), escape_markdown("fair_qat"))
    \$10%-\$20% a\|b fair_qat
    """
    return " ".join(_MARKS.sub(r"\\\g<0>", text).split())


def markdown(rows: pd.DataFrame) -> str:
    """Write a table of GitHub's Markdown."""
    rows = _rounded(rows)
    texts = rows.astype(object)
    for name in rows:
        if rows[name].dtype.kind == "f":
            texts[name] = [*map(_fixed(name, "–"), rows[name])]
        elif rows[name].dtype.kind not in "iub":
            texts[name] = rows[name].astype(str).map(escape_markdown)
    right = set(rows.select_dtypes("number"))
    rule = ["---:" if name in right else "---" for name in rows]
    lines = [map(escape_markdown, rows), rule, *texts.to_numpy()]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def latex(rows: pd.DataFrame, caption: str) -> str:
    """Write a table with the rules of booktabs and columns that siunitx aligns at the point."""
    rows = _rounded(rows)
    style = (
        rows.style.hide(axis="index")
        .format(lambda value: " ".join(str(value).split()), escape="latex")
        .format_index(lambda name: name.replace("_", " "), escape="latex", axis=1)
    )
    for name in rows.select_dtypes("number"):
        form = _fixed(name, "{--}") if rows[name].dtype.kind == "f" else "{:.0f}"
        style = style.format(form, subset=[name], na_rep="{--}")
    text = style.to_latex(hrules=True, siunitx=True, caption=caption.replace("_", " "))
    # the minus sign is not in the usual fonts
    return str(text).replace("< 0.001", "{$<$ 0.001}").replace("−", "--")


def _digits(name: str) -> int:
    if name == "p" or name.endswith(", nats"):
        return 3
    return 2 if name.split()[0] in ("d", "training,", "error") else 1


def _fixed(name: str, missing: str) -> Callable[[float], str]:
    """How the numbers of a column are written; a p is never shown as 0."""

    def text(value: float) -> str:
        if value != value:
            return missing
        return "< 0.001" if name == "p" and value < 0.001 else f"{value:.{_digits(name)}f}"

    return text


def _rounded(rows: pd.DataFrame) -> pd.DataFrame:
    """Round as shown, so that no −0.0 remains."""
    floats = rows.select_dtypes("float").columns.drop("p", errors="ignore")
    return rows.assign(**{name: rows[name].round(_digits(name)) + 0.0 for name in floats})
