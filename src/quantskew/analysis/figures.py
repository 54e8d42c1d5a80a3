"""The figures as SVG: one style, colours that colour-blind readers tell apart, intervals drawn."""

import io
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure

STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "figure.constrained_layout.use": True,
    "font.size": 9,
    "grid.alpha": 0.4,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "quantskew",
}
# Tol's muted colours, which colour-blind readers tell apart, the strongest first
COLOURS = ("#CC6677", "#332288", "#117733", "#44AA99", "#AA4499",
           "#999933", "#88CCEE", "#882255", "#DDCC77")  # fmt: skip
MARKERS = "sD^vPXh<>p"
HATCHES = ("", "///", "...", "xxx")
PLAIN = {"fp32": ("#000000", "*"), "fp16": ("#777777", "d"), "ptq": ("#444444", "o")}
KNOWN = (
    "qat", "mpqat", "fair_qat", "uo_wcr", "channel", "mse", "adaround", "fair_mixed", "augmented",
)  # fmt: skip
"""Methods that look the same in every study; others get what follows, in alphabetical order."""


def looks(methods: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and hatch of each method: no two pairs with the colour are alike up to 36."""
    rest = sorted({*methods}.difference(PLAIN, KNOWN))
    others = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], HATCHES[i // len(COLOURS) % 4])
        for i, name in enumerate([*KNOWN, *rest])
    }
    return {name: (*look, "") for name, look in PLAIN.items()} | others


def svg(draw: Callable[[Figure, pd.DataFrame], None], rows: pd.DataFrame) -> str:
    """Draw a figure and return it as SVG, the same bytes for the same rows."""
    with mpl.rc_context(STYLE):
        figure = Figure()
        draw(figure, rows)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


def _panels(
    figure: Figure, rows: pd.DataFrame, width: float, height: float
) -> Iterator[tuple[Axes, pd.DataFrame]]:
    names = rows["panel"].unique()
    figure.set_size_inches(width, height * len(names))
    axes = figure.subplots(len(names), squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name)
        yield ax, rows[rows["panel"] == name]


def _whiskers(rows: pd.DataFrame, value: str = "value", prefix: str = "") -> np.ndarray:
    low, high = rows[f"{prefix}low"], rows[f"{prefix}high"]
    return np.clip([rows[value] - low, high - rows[value]], 0, None)


def bars_by_group(label: str, percent: bool) -> Callable[[Figure, pd.DataFrame], None]:
    """Bars of every group side by side, one a width from wide to narrow, with intervals.

    Where the rows list ``seeds``, each is a dot on its bar.
    """

    def draw(figure: Figure, rows: pd.DataFrame) -> None:
        for ax, part in _panels(figure, rows, 8, 2.8):
            groups, widths = part["group"].unique(), part["width"].unique()
            colours = mpl.colormaps["cividis"](np.linspace(0, 0.9, len(widths)))
            step = 0.8 / len(widths)
            factor = 100 if percent else 1
            sizes = part.drop_duplicates("group").set_index("group")["n"]
            for number, (width, colour) in enumerate(zip(widths, colours, strict=True)):
                at = part[part["width"] == width].set_index("group").reindex(groups)
                x = np.arange(len(groups)) - 0.4 + step * (number + 0.5)
                ax.bar(
                    x, at["value"] * factor, step, color=colour, label=width,
                    yerr=_whiskers(at) * factor, error_kw={"lw": 0.7, "ecolor": "#555555"},
                )  # fmt: skip
                if "seeds" in at:
                    for place, values in zip(x, at["seeds"], strict=True):
                        if isinstance(values, list) and len(values) > 1:
                            ax.plot(
                                [place] * len(values), np.multiply(values, factor), ls="",
                                marker="o", ms=2.2, mfc="#D55E00", mec="white", mew=0.3, zorder=3,
                            )  # fmt: skip
            ax.set_xticks(range(len(groups)), [f"{g}\nn={sizes[g]}" for g in groups])
            ax.grid(False, axis="x")
            ax.set_ylabel(label)
            ax.legend(ncols=len(widths), loc="lower left", bbox_to_anchor=(0.35, 1), borderpad=0)

    return draw


def lines_by_width(figure: Figure, rows: pd.DataFrame) -> None:
    """FVO of every method against the width; grey is what chance shows with equal groups."""
    widths = rows.drop_duplicates("bits").sort_values("bits", ascending=False)["width"].tolist()
    styles = looks(rows["method"])
    for ax, part in _panels(figure, rows, 8, 3):
        chance = part.groupby("width")["chance_upper"].max().reindex(widths) * 100
        ax.fill_between(range(len(widths)), 0, chance, color="#999999", alpha=0.3, lw=0)
        ax.annotate("within chance", (len(widths) - 1, 0), (0, 2), textcoords="offset points",
                    ha="right", color="#555555", fontsize=8)  # fmt: skip
        methods = part["method"].unique()
        for number, method in enumerate(methods):
            at = part[part["method"] == method]
            colour, marker, _ = styles[method]
            x = [widths.index(w) for w in at["width"]] + np.array(
                (number - len(methods) / 2) * min(0.05, 0.4 / len(methods))
            )
            ax.errorbar(
                x, at["value"] * 100, yerr=_whiskers(at) * 100, label=method, capsize=2, lw=1.2,
                marker=marker, ms=4, color=colour,
            )  # fmt: skip
        ax.set_xticks(range(len(widths)), widths)
        ax.set_ylim(0)
        ax.set_ylabel("FVO, points")
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


def trade_off(figure: Figure, rows: pd.DataFrame) -> None:
    """Overall accuracy against FVO, a field a width; the best place is at the lower right."""
    panels = rows["panel"].unique()
    rows = rows[(rows["bits"] < 16) | (rows["method"] == "fp32")]
    widths = rows[rows["bits"] < 16].drop_duplicates("bits").sort_values("bits", ascending=False)
    figure.set_size_inches(8, 2.9 * len(panels))
    axes = figure.subplots(len(panels), len(widths), squeeze=False, sharey=True)
    methods, styles = rows["method"].unique(), looks(rows["method"])
    for line, panel in zip(axes, panels, strict=True):
        here = rows[rows["panel"] == panel]
        for ax, (bits, width) in zip(line, widths[["bits", "width"]].values, strict=True):
            shown = here[(here["bits"] == bits) | (here["method"] == "fp32")]
            for method in methods:
                at = shown[shown["method"] == method]
                colour, marker, _ = styles[method]
                ax.errorbar(
                    at["accuracy"] * 100, at["fvo"] * 100,
                    xerr=_whiskers(at, "accuracy", "accuracy_") * 100,
                    yerr=_whiskers(at, "fvo", "fvo_") * 100,
                    fmt=marker, ms=5, lw=0.8, label=method, color=colour,
                )  # fmt: skip
            ax.set_title(f"{panel}\n{width}" if ax is line[0] else f"\n{width}")
            ax.set_xlabel("accuracy, %")
        line[0].set_ylabel("FVO, points")
    figure.legend(
        *axes[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=min(7, len(methods)),
    )


def _grid(
    figure: Figure, rows: pd.DataFrame, height: float = 3.2
) -> Iterator[tuple[Axes, pd.DataFrame]]:
    panels, fields = rows["panel"].unique(), rows["drawing"].unique()
    figure.set_size_inches(9, height * len(panels))
    axes = figure.subplots(len(panels), len(fields), squeeze=False)
    for line, panel in zip(axes, panels, strict=True):
        for ax, field in zip(line, fields, strict=True):
            ax.set_title(f"{panel}\n{field}" if ax is line[0] else f"\n{field}")
            yield ax, rows[(rows["panel"] == panel) & (rows["drawing"] == field)]


def heatmap(figure: Figure, rows: pd.DataFrame, signed: bool = False) -> None:
    """Groups (``y``) by widths (``x``), each with its number; a drawing has colours of its own.

    They follow the number up to about 1 and its logarithm beyond, on either side of 0; ``signed``
    ones are white at 0, and the same number is the same colour in all drawings.
    """
    most = float(rows["value"].abs().max())
    most = most if most > 0 else 1.0  # nothing to tell of, NaN, has limits too
    limits = (-most, most) if signed else (None, None)
    lines = rows.groupby("panel")["y"].nunique().max()
    for ax, part in _grid(figure, rows, max(3.2, 1 + 0.16 * lines)):
        table = part.pivot(index="y", columns="x", values="value")
        table = table.loc[part["y"].unique(), part["x"].unique()]
        image = ax.imshow(
            table,
            cmap="PuOr_r" if signed else "cividis",
            aspect="auto",
            norm=AsinhNorm(1, *limits),
        )
        shade = np.asarray(image.norm(table.to_numpy()))
        dark = abs(shade - 0.5) > 0.35 if signed else shade < 0.5
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            if np.isfinite(value):
                text = f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 4) + 0.0:.2g}"
                ax.text(j, i, text, ha="center", va="center", fontsize=7,
                        color="white" if dark[i, j] else "black")  # fmt: skip
        ax.set_xticks(range(table.shape[1]), table.columns)
        if sum(map(len, table.columns)) > 30:
            for label in ax.get_xticklabels():
                label.set(rotation=35, ha="right")
        named = table.index if part["drawing"].iloc[0] == rows["drawing"].iloc[0] else []
        ax.set_yticks(range(len(named)), named)
        ax.grid(False)
        if signed:
            figure.colorbar(image, ax=ax, ticks=[-most, 0, most], format="%.2g")


def points(
    xlabel: str = "",
    ylabel: str = "",
    joined: bool = False,
    scale: str = "linear",
    diagonal: bool = False,
) -> Callable[[Figure, pd.DataFrame], None]:
    """Points ``x``, ``y`` in a colour and marker a series; where there is one alone, named.

    With limits ``low`` and ``high`` of ``y`` where the rows have them.
    """

    def draw(figure: Figure, rows: pd.DataFrame) -> None:
        series = rows["series"].unique()
        colours = mpl.colormaps["cividis"](np.linspace(0, 0.9, len(series)))
        drawn: dict[str, Any] = {}
        for ax, part in _grid(figure, rows):
            for number, (name, colour) in enumerate(zip(series, colours, strict=True)):
                at = part[part["series"] == name]
                if len(at):
                    drawn[name] = ax.errorbar(
                        at["x"], at["y"], _whiskers(at, "y") if "low" in at else None,
                        ls="-" if joined else "", lw=1, ms=4, color=colour, elinewidth=0.7,
                        marker=MARKERS[number % len(MARKERS)],
                    )[0]  # fmt: skip
            if len(series) == 1 and "group" in part:
                for group, x, y in part[["group", "x", "y"]].itertuples(index=False):
                    ax.annotate(group, (x, y), (3, 3), textcoords="offset points", fontsize=7)
            if scale != "linear":
                options = {"linthresh": 1e-2} if scale == "symlog" else {}
                ax.set_yscale(scale, **options)
                if diagonal:
                    ax.set_xscale(scale, **options)
            if diagonal:
                ax.axline((0, 0), (1e-3, 1e-3), color="#999999", lw=0.8, zorder=0)
            ax.set_xlabel(xlabel)
            ax.set_ylabel(ylabel)
        if len(series) > 1:
            figure.legend(
                drawn.values(), drawn.keys(), loc="outside lower center", ncols=min(12, len(drawn))
            )

    return draw


def bars(figure: Figure, rows: pd.DataFrame) -> None:
    """Bars of ``value`` at every ``x``, one a series side by side, with limits."""
    for ax, part in _grid(figure, rows):
        names, series = part["x"].unique(), part["series"].unique()
        styles = looks(series)
        step = 0.8 / len(series)
        for number, one in enumerate(series):
            at = part[part["series"] == one].set_index("x").reindex(names)
            ax.bar(
                np.arange(len(names)) - 0.4 + step * (number + 0.5), at["value"], step, label=one,
                yerr=_whiskers(at), color=styles[one][0], hatch=styles[one][2],
                error_kw={"lw": 0.7},
            )  # fmt: skip
        ax.set_xticks(range(len(names)), names)
        ax.grid(False, axis="x")
        if ax is figure.axes[0]:
            figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=7)
