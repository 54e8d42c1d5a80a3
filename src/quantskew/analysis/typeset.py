r"""How tables are written: in LaTeX for papers, in Markdown for pages, in cells of the HTML report.

Names of data sets, methods and groups come out as they are, whatever signs they hold. A LaTeX
document needs ``\usepackage{booktabs, siunitx}`` and ``\input`` of the file.
"""

import re
from collections.abc import Callable
from typing import Any

import pandas as pd

_MARKS = re.compile(r"[\\`*<>|$~&]|\](?=[(\[:])|\b_(?!\w)|(?<!\w)_")


def cell(value: Any) -> str:
    """Format a value for the report: a number to four digits, nothing for NaN.

    Examples
    --------
    >>> cell(0.123456), cell(float("nan")), cell("a")
    ('0.1235', '', 'a')
    """
    if not isinstance(value, float):
        return str(value)
    value = round(value, 12)  # what is left of 0.1 + 0.2 − 0.3 is 0
    return "" if value != value else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


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
