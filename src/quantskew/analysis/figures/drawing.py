"""How figures are drawn: one style, colours that colour-blind readers tell apart, and intervals."""

import io
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm
from matplotlib.figure import Figure
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
    SymmetricalLogLocator,
)

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
FIXED = {"fp32": ("#000000", "*"), "fp16": ("#777777", "d"), "ptq": ("#444444", "o")}
VERDICTS = {
    "worse": ("#CC6677", "v", ""), "cannot tell": ("#777777", "o", "white"),
    "equivalent": ("#117733", "o", ""), "better": ("#332288", "^", ""),
}  # fmt: skip
"""Colour, marker and filling of each verdict."""
KNOWN = (
    "qat", "mpqat", "fair_qat", "uo_wcr", "channel", "mse", "adaround", "fair_mixed", "augmented",
)  # fmt: skip
"""Methods that look the same in every study; the others follow them in alphabetical order."""

APART = 0.25
"""From this difference between seeds on, their mean is like none of them."""
Scale = Literal["linear", "log", "symlog"]


LONGEST = 60
"""Signs of a name in a figure; the tables have all of it."""


def looks(methods: Iterable[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, marker and hatch of each method; up to 36 methods, no two share all three."""
    rest = sorted({*methods}.difference(FIXED, KNOWN))
    others = {
        name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)], HATCHES[i // len(COLOURS) % 4])
        for i, name in enumerate([*KNOWN, *rest])
    }
    return {name: (*look, "") for name, look in FIXED.items()} | others


def _verbatim(rows: pd.DataFrame) -> pd.DataFrame:
    # two dollar signs enclose a formula, and a label that starts with an underscore has no entry in
    # a legend unless an invisible character stands before it
    texts = rows[[name for name in rows if pd.api.types.is_string_dtype(rows[name])]]
    short = {name: _short(texts[name]) for name in texts}
    texts = texts.assign(**short)
    return rows.assign(**texts.replace({r"\$": r"\$", "^_": "\N{WORD JOINER}_"}, regex=True))


def _short(names: "pd.Series[str]") -> "pd.Series[str]":
    """Cut the middle out of long names, and number those that then look alike."""
    long = [name for name in names.unique() if len(str(name)) > LONGEST]
    cut = pd.Series({name: f"{name[: LONGEST - 15]}…{name[-14:]}" for name in long}, dtype=str)
    again = cut.groupby(cut).cumcount()
    return names.replace((cut + again.where(again > 0, "").astype(str)).to_dict())


def compact(svg: str) -> str:
    """Leave out of the SVG of matplotlib what a browser does not need.

    Coordinates are rounded to a hundredth of a point, and the list of fonts, which matplotlib
    repeats for every text, is written once.
    """
    svg = re.sub(
        r"<\?xml.*?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", "", svg, flags=re.S
    )
    svg = re.sub(r' id="[\w.]+_\d+"| transform="rotate\(-0 [^"]*"', "", svg)
    if families := re.search(r"font-family: [^;\"]*", svg):
        svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
        svg = svg.replace("butt}</style>", f"butt}} text{{{families[0]}}}</style>", 1)
    # a tick has the line style of the path that it uses
    svg = re.sub(r'(<use [^>]*?) style="(?:stroke[^;"]*(?:; )?)*"', r"\1", svg)
    ends: list[str] = []  # of the groups around this place: groups without attributes do nothing

    def group(tag: re.Match[str]) -> str:
        if tag[0] == "</g>":
            return ends.pop()
        ends.append("" if tag[0] == "<g>" else "</g>")
        return "" if tag[0] == "<g>" else tag[0]

    svg = re.sub(r"<g(?: [^>]*)?(?<!/)>|</g>", group, svg.replace("<g/>", ""))
    svg = re.sub(r"<[^>]*\.\d{3}[^>]*>", lambda tag: _DIGITS.sub(_rounded, tag[0]), svg)
    return re.sub(r"\s*\n\s*", "\n", svg).lstrip()


_DIGITS = re.compile(r"-?\d+\.\d{3,}")


def _rounded(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}".rstrip("0").rstrip(".")


@dataclass(frozen=True)
class Drawing(ABC):
    """A way of drawing rows, and the DVC template that draws the same.

    Attributes
    ----------
    template
        Name of a file in ``.dvc/plots``.
    methods
        Column of the rows that names methods, where their colours are those of :func:`looks`.
    x, y
        Columns of the rows on the axes.
    x_label, y_label
        Names of the axes.
    """

    template: ClassVar[str]
    methods: ClassVar[str] = ""
    x: ClassVar[str] = "x"
    y: ClassVar[str] = "y"
    x_label: str = ""
    y_label: str = ""

    @abstractmethod
    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None: ...

    def canvas(self, rows: pd.DataFrame) -> Figure:
        """Draw the rows; names appear as they are, even where they look like formulas."""
        with mpl.rc_context(STYLE):
            figure = Figure()
            self._draw(figure, _verbatim(rows))
        return figure

    def svg(self, rows: pd.DataFrame) -> str:
        """Draw the rows as a short SVG: the same rows give the same bytes."""
        text = io.StringIO()
        with mpl.rc_context(STYLE), warnings.catch_warnings():
            # texts stay texts in an SVG, so a font that lacks a sign matters to the layout alone
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            self.canvas(rows).savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        return compact(text.getvalue())

    def described(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows as the template needs them: with their ``place``, and the ``colour`` of methods."""
        rows = rows.assign(place=range(len(rows)))
        if not self.methods:
            return rows
        colours = {name: colour for name, (colour, *_) in looks(rows[self.methods]).items()}
        return rows.assign(colour=rows[self.methods].map(colours))

    def axes(self) -> dict[str, str]:
        """Axes as ``dvc.yaml`` names them; DVC fills an empty label with a name of its own."""
        labels = {"x_label": self.x_label or " ", "y_label": self.y_label or " "}
        return {"x": self.x, "y": self.y, **labels}


def _panels(
    figure: Figure, rows: pd.DataFrame, width: float, height: float
) -> Iterator[tuple[Axes, pd.DataFrame]]:
    names = rows["panel"].unique()
    figure.set_size_inches(width, height * len(names))
    axes = figure.subplots(len(names), squeeze=False)[:, 0]
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name)
        yield ax, rows[rows["panel"] == name]


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


def _whiskers(rows: pd.DataFrame, value: str = "value", prefix: str = "") -> np.ndarray:
    low, high = rows[f"{prefix}low"], rows[f"{prefix}high"]
    return np.asarray(np.clip([rows[value] - low, high - rows[value]], 0, None))


def _shades(names: Sized) -> np.ndarray:
    return np.asarray(mpl.colormaps["cividis"](np.linspace(0, 0.9, len(names))))


@dataclass(frozen=True)
class BarsByGroup(Drawing):
    """Bars of every group side by side, one for each width from wide to narrow, with intervals.

    Where the rows list ``seeds``, each is a dot on its bar; the bar is hollow where they lie far
    apart.
    """

    template = "bars_by_group"
    x, y = "group", "value"
    percent: bool = False

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        factor = 100 if self.percent else 1
        for ax, part in _panels(figure, rows, 8, 2.8):
            groups, widths = part["group"].unique(), part["width"].unique()
            step = 0.8 / len(widths)
            sizes = part.drop_duplicates("group").set_index("group")["n"]
            for number, (width, colour) in enumerate(zip(widths, _shades(widths), strict=True)):
                at = part[part["width"] == width].set_index("group").reindex(groups)
                x = np.arange(len(groups)) - 0.4 + step * (number + 0.5)
                bars = ax.bar(
                    x, at["value"] * factor, step, color=colour, label=width,
                    yerr=_whiskers(at) * factor, error_kw={"lw": 0.7, "ecolor": "#555555"},
                )  # fmt: skip
                for bar, values in zip(bars, at.get("seeds", []), strict="seeds" in at):
                    if isinstance(values, list) and np.ptp(values) > APART:
                        bar.set(facecolor="none", edgecolor=colour, linestyle="--", linewidth=1)
                for place, values in zip(x, at.get("seeds", []), strict="seeds" in at):
                    if isinstance(values, list) and len(values) > 1:
                        ax.plot(
                            [place] * len(values), np.multiply(values, factor), ls="", marker="o",
                            ms=2.2, mfc="#D55E00", mec="white", mew=0.3, zorder=3,
                        )  # fmt: skip
            ax.set_xticks(range(len(groups)), [f"{g}\nn={sizes[g]}" for g in groups])
            ax.grid(False, axis="x")
            ax.set_ylabel(self.y_label + ", %" * self.percent)
            ax.legend(ncols=len(widths), loc="lower left", bbox_to_anchor=(0.35, 1), borderpad=0)


@dataclass(frozen=True)
class LinesByWidth(Drawing):
    """FVO of every method against the width; grey is what chance shows with equal groups."""

    template = "lines_by_width"
    methods = "method"
    x, y = "width", "value"

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
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
                shift = (number - len(methods) / 2) * min(0.05, 0.4 / len(methods))
                ax.errorbar(
                    [widths.index(width) + shift for width in at["width"]], at["value"] * 100,
                    yerr=_whiskers(at) * 100, label=method, capsize=2, lw=1.2, marker=marker, ms=4,
                    color=colour,
                )  # fmt: skip
            ax.set_xticks(range(len(widths)), widths)
            ax.set_ylim(0)
            ax.set_ylabel(f"{self.y_label}, points")
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))


@dataclass(frozen=True)
class TradeOff(Drawing):
    """Change of accuracy against change of FVO, in points; the best place is the lower right.

    A field for each width, all on the same axes, which are logarithmic beyond the ``margin``. Its
    band is grey, and fp32 is where the lines cross.
    """

    template = "trade_off"
    methods = "method"
    x, y = "accuracy", "fvo"

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        panels = rows["panel"].unique()
        widths = rows.drop_duplicates("bits").sort_values("bits", ascending=False)["width"]
        figure.set_size_inches(9, 2.9 * len(panels))
        axes = figure.subplots(len(panels), len(widths), squeeze=False, sharex=True, sharey=True)
        methods, styles = rows["method"].unique(), looks(rows["method"])
        margin = max(rows["margin"].iloc[0], 0.5)
        for line, panel in zip(axes, panels, strict=True):
            here = rows[rows["panel"] == panel]
            for ax, width in zip(line, widths, strict=True):
                _margin_band(ax.axvspan, ax.axvline, rows["margin"].iloc[0])
                _margin_band(ax.axhspan, ax.axhline, rows["margin"].iloc[0])
                for method in methods:
                    at = here[(here["width"] == width) & (here["method"] == method)]
                    colour, marker, _ = styles[method]
                    ax.errorbar(
                        at["accuracy"], at["fvo"], xerr=_whiskers(at, "accuracy", "accuracy_"),
                        yerr=_whiskers(at, "fvo", "fvo_"),
                        fmt=marker, ms=5, lw=0.8, label=method, color=colour,
                    )  # fmt: skip
                for set_scale, axis in ((ax.set_xscale, ax.xaxis), (ax.set_yscale, ax.yaxis)):
                    set_scale("symlog", linthresh=margin)
                    axis.set_major_locator(FixedLocator([-50, -10, -margin, 0, margin, 10, 50]))
                    axis.set_major_formatter(_signed)
                    axis.set_minor_locator(NullLocator())
                ax.grid(visible=True, axis="both")
                ax.tick_params(axis="x", labelsize=7)
                ax.set_title(f"{panel}\n{width}" if ax is line[0] else f"\n{width}")
                if panel == panels[-1]:
                    ax.set_xlabel(self.x_label)
            line[0].set_ylabel(self.y_label)
        entries = axes[0][0].get_legend_handles_labels()
        figure.legend(*entries, loc="outside lower center", ncols=min(7, len(methods)))


def _margin_band(span: Callable[..., Any], line: Callable[..., Any], margin: float) -> None:
    span(-margin, margin, color="#999999", alpha=0.25, lw=0)
    line(0, color="#555555", lw=0.8)


def _signed(value: float, _: int | None = None) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


@dataclass(frozen=True)
class Ranges(Drawing):
    """A point with limits on each line ``y``; the ``margin`` about zero is a band.

    Markers and colours say the verdict, and markers alone are enough in grey.
    """

    template = "ranges"

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        panels, entries = rows["panel"].unique(), {}
        fields = max(part["drawing"].nunique() for _, part in rows.groupby("panel"))
        lines = rows.groupby(["panel", "drawing"]).size().max()
        figure.set_size_inches(9.5, (1.2 + 0.17 * lines) * len(panels))
        axes = figure.subplots(len(panels), fields, squeeze=False)
        for line, panel in zip(axes, panels, strict=True):
            here = rows[rows["panel"] == panel]
            names = here["drawing"].unique()
            for ax in line[len(names) :]:
                ax.set_axis_off()
            for ax, name in zip(line, names, strict=False):
                part = here[here["drawing"] == name].reset_index(drop=True)
                _margin_band(ax.axvspan, ax.axvline, part["margin"].iloc[0])
                for word, (colour, marker, fill) in VERDICTS.items():
                    at = part[part["verdict"] == word]
                    if len(at):
                        entries[word] = ax.errorbar(
                            at["x"], at.index, xerr=_whiskers(at, "x"), fmt=marker, ms=5, lw=1,
                            color=colour, mfc=fill or colour,
                        )  # fmt: skip
                ax.set_yticks(range(len(part)), part["y"])
                ax.set_ylim(len(part) - 0.4, -0.6)
                ax.grid(visible=True, axis="x")
                ax.grid(visible=False, axis="y")
                ax.set_title(f"{panel}\n{name}" if ax is line[0] else f"\n{name}")
                if panel == panels[-1]:
                    ax.set_xlabel(self.x_label)
        figure.legend(entries.values(), entries.keys(), loc="outside lower center", ncols=4)


@dataclass(frozen=True)
class HeatMap(Drawing):
    """Cells ``y`` by ``x``, each with its number; every field has a range of colours of its own.

    Colours follow the number up to about 1 and its logarithm beyond, on either side of 0. Those of
    a ``signed`` map are white at 0, and the same number has the same colour in all fields.
    """

    template = "heatmap"
    signed: bool = False

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        most = float(rows["value"].abs().max())
        most = most if most > 0 else 1.0  # zeros or NaN alone need limits too
        limits = (-most, most) if self.signed else (None, None)
        lines = rows.groupby("panel")["y"].nunique().max()
        for ax, part in _grid(figure, rows, max(3.2, 1 + 0.16 * lines)):
            table = part.pivot(index="y", columns="x", values="value")
            table = table.loc[part["y"].unique(), part["x"].unique()]
            image = ax.imshow(
                table,
                cmap="PuOr_r" if self.signed else "cividis",
                aspect="auto",
                norm=AsinhNorm(1, *limits),
            )
            shade = np.asarray(image.norm(table.to_numpy()))
            dark = abs(shade - 0.5) > 0.35 if self.signed else shade < 0.5
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
            if self.signed:
                figure.colorbar(image, ax=ax, ticks=[-most, 0, most], format="%.2g")


@dataclass(frozen=True)
class SignedHeatMap(HeatMap):
    """A heat map whose colours part at 0."""

    template = "heatmap_signed"
    signed: bool = True


@dataclass(frozen=True)
class Points(Drawing):
    """Points in a colour and marker for each ``series``; a single series names its groups.

    Limits ``low`` and ``high`` of ``y`` are drawn where the rows have them.
    """

    template = "points"
    joined: bool = False
    scale: Scale = "linear"
    x_scale: Scale = "linear"
    diagonal: bool = False

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        series = rows["series"].unique()
        drawn: dict[str, Any] = {}
        named = []
        for ax, part in _grid(figure, rows):
            for number, (name, colour) in enumerate(zip(series, _shades(series), strict=True)):
                at = part[part["series"] == name]
                if len(at):
                    drawn[name] = ax.errorbar(
                        at["x"], at["y"], _whiskers(at, "y") if "low" in at else None,
                        ls="-" if self.joined else "", lw=1, ms=4, color=colour, elinewidth=0.7,
                        marker=MARKERS[number % len(MARKERS)], alpha=0.85,
                    )[0]  # fmt: skip
            scales: dict[Literal["x", "y"], str] = {"x": self.x_scale, "y": self.scale}
            for axis, scale in scales.items():
                if scale != "linear":
                    _logarithmic(ax, axis, scale)
            if self.diagonal:
                ax.axline((0, 0), (1e-3, 1e-3), color="#999999", lw=0.8, zorder=0)
            if len(series) == 1 and "group" in part:
                named.append((ax, part.rename(columns={"group": "name"})))
            ax.set_xlabel(self.x_label)
            ax.set_ylabel(self.y_label)
        if len(series) > 1:
            figure.legend(
                drawn.values(), drawn.keys(), loc="outside lower center", ncols=min(12, len(drawn))
            )
        _name_points(figure, named)


@dataclass(frozen=True)
class LogPoints(Points):
    """Points whose axes are both logarithmic, beyond 0.01 on either side of zero."""

    template = "points_log"
    scale: Scale = "symlog"
    x_scale: Scale = "symlog"


@dataclass(frozen=True)
class Curves(Drawing):
    """A line for each ``series``; those that end ``lowest`` are coloured, and named there."""

    template = "curves"
    lowest: int = 3

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        named = []
        for ax, part in _grid(figure, rows):
            last = part.sort_values("x").groupby("series", sort=False).tail(1).sort_values("y")
            for place, name in reversed([*enumerate(last["series"])]):
                at = part[part["series"] == name].sort_values("x")
                strong = place < self.lowest
                ax.plot(
                    at["x"], at["y"], color=COLOURS[place] if strong else "#999999",
                    lw=1.8 if strong else 0.9, marker=MARKERS[place] if strong else "", ms=4,
                )  # fmt: skip
            first, end = part["x"].min(), part["x"].max()
            ax.set_xlim(first, end + 0.12 * (end - first or 1))
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            named.append((ax, last.head(self.lowest).rename(columns={"series": "name"})))
            ax.set_xlabel(self.x_label)
            ax.set_ylabel(self.y_label)
        _name_points(figure, named, beyond=True)


def _name_points(
    figure: Figure, named: list[tuple[Axes, pd.DataFrame]], *, beyond: bool = False
) -> None:
    """Write names beside points, moved up or down where they would overprint.

    Parameters
    ----------
    named
        Axes with rows of ``x``, ``y`` and ``name``; no axes may be added to the figure afterwards.
    beyond
        Whether all names stand right of their points; else those in the right half stand left.
    """
    figure.draw_without_rendering()
    for ax, rows in named:
        places = ax.transData.transform(rows[["x", "y"]].to_numpy(float)) * 72 / figure.dpi
        middle = ax.get_window_extent().x0 * 72 / figure.dpi + ax.bbox.width * 36 / figure.dpi
        # left and right end and height of what is drawn, in points: markers, then names
        taken = [(x - 3, x + 3, y) for x, y in places]
        for at in np.lexsort((places[:, 1], places[:, 0])):
            name, (x, y) = str(rows["name"].iloc[at]), places[at]
            side = -1 if x > middle and not beyond else 1
            left, right = sorted((x + 4 * side, x + (4.2 * len(name) + 7) * side))
            moves = sorted(range(-60, 61, 3), key=abs)
            free = (
                move for move in moves
                if all(right < a or left > b or abs(y + move - c) >= 7 for a, b, c in taken)
            )  # fmt: skip
            move = next(free, 0)
            taken.append((left, right, y + move))
            ax.annotate(
                name, (rows["x"].iloc[at], rows["y"].iloc[at]), (4 * side, move - 3),
                textcoords="offset points", fontsize=7, annotation_clip=False,
                ha="left" if side > 0 else "right",
            ).set_in_layout(False)  # fmt: skip


def _logarithmic(ax: Axes, axis: Literal["x", "y"], scale: str) -> None:
    """Make an axis logarithmic, its numbers written as they are, without powers of ten."""
    own = getattr(ax, f"{axis}axis")
    options = {"linthresh": 1e-2} if scale == "symlog" else {}
    getattr(ax, f"set_{axis}scale")(scale, **options)
    low, high = own.get_view_interval()
    few = low > 0 and np.log10(high / low) < 2
    subs = (1.0, 2.0, 5.0) if few else (1.0,)
    if scale == "symlog" and low <= 1e-2:
        own.set_major_locator(SymmetricalLogLocator(base=10, linthresh=1e-2, subs=subs))
    else:
        own.set_major_locator(LogLocator(subs=subs))
    own.set_major_formatter(lambda value, _: f"{value:g}".replace("-", "−"))
    own.set_minor_formatter(NullFormatter())


@dataclass(frozen=True)
class Bars(Drawing):
    """Bars of ``value`` at every ``x``, one for each ``series`` side by side, with limits."""

    template = "bars"
    methods = "series"
    y = "value"

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        for ax, part in _grid(figure, rows):
            names, series = part["x"].unique(), part["series"].unique()
            styles = looks(series)
            step = 0.8 / len(series)
            for number, one in enumerate(series):
                at = part[part["series"] == one].set_index("x").reindex(names)
                colour, _, hatch = styles[one]
                ax.bar(
                    np.arange(len(names)) - 0.4 + step * (number + 0.5), at["value"], step,
                    label=one, yerr=_whiskers(at), color=colour, hatch=hatch, error_kw={"lw": 0.7},
                )  # fmt: skip
            ax.set_xticks(range(len(names)), names)
            ax.grid(False, axis="x")
            if ax is figure.axes[0]:
                figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=7)
