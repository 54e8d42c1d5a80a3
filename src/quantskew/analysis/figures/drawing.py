"""How figures are drawn: one style, colours that colour-blind readers tell apart, and intervals."""

import io
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from itertools import cycle
from operator import itemgetter
from typing import Any, ClassVar, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import AsinhNorm, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import (
    FixedLocator,
    LogLocator,
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
MARKERS = {
    "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
    ">": "triangle-right", "P": "cross", "o": "circle",
}  # fmt: skip
"""Markers of matplotlib, and the same shapes of Vega."""
FIXED = {"fp32": ("#000000", "P"), "fp16": ("#777777", "D"), "ptq": ("#444444", "o")}
GREY = "#999999"
KNOWN = (
    "qat", "mpqat", "fair_qat", "uo_wcr", "channel", "mse", "adaround", "fair_mixed", "augmented",
)  # fmt: skip
"""Methods that look the same in every study; the others follow them in alphabetical order."""

APART = 25
"""From this difference between seeds on, in points, their mean is like none of them."""
LONGEST = 60
"""Signs of a name in a figure; the tables have all of it."""
Scale = Literal["linear", "log", "symlog"]
Columns = Iterator[tuple[Axes, pd.DataFrame]]


def looks(methods: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each method; no two methods share a colour."""
    rest = sorted({*methods}.difference(FIXED, KNOWN))
    shapes = [*MARKERS][:-1]  # 7 of them and 9 colours: 63 pairs before one comes again
    return FIXED | {
        name: (_shade(COLOURS[i % len(COLOURS)], i // len(COLOURS)), shapes[i % len(shapes)])
        for i, name in enumerate([*KNOWN, *rest])
    }


def _shade(colour: str, times: int) -> str:
    """Make a colour darker when it is used again, lighter the next time, and so on."""
    rest, black = 0.62 ** ((times + 1) // 2), times % 2
    red, green, blue = (part * rest + (0 if black else 1 - rest) for part in to_rgb(colour))
    return to_hex((red, green, blue))


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
    spoken
        Whether its texts are part of what is told to those who do not see it.
    x, y
        Columns of the rows on the axes.
    x_label, y_label
        Names of the axes.
    """

    template: ClassVar[str]
    methods: ClassVar[str] = ""
    spoken: ClassVar[bool] = False
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
        """Rows as the template needs them: with their ``place``, and how methods look."""
        rows = rows.assign(place=range(len(rows)))
        if not self.methods:
            return rows
        look = looks(rows[self.methods])
        colours, shapes = (
            {name: part(own) for name, own in look.items()}
            for part in (itemgetter(0), lambda own: MARKERS[own[1]])
        )
        names = rows[self.methods]
        return rows.assign(colour=names.map(colours), shape=names.map(shapes))

    def axes(self) -> dict[str, str]:
        """Axes as ``dvc.yaml`` names them; DVC fills an empty label with a name of its own."""
        labels = {"x_label": self.x_label or " ", "y_label": self.y_label or " "}
        return {"x": self.x, "y": self.y, **labels}

    def fields(
        self, figure: Figure, rows: pd.DataFrame, height: float, shared: Literal["", "x", "xy"] = ""
    ) -> Columns:
        """Divide the figure: a line for each ``panel``, a column for each ``drawing`` of it.

        All fields have the ``shared`` axes together.
        """
        panels = rows["panel"].unique()
        drawings = rows["drawing"].unique() if "drawing" in rows else [None]
        figure.set_size_inches(9, height * len(panels))
        size = len(panels), len(drawings)
        axes = figure.subplots(*size, squeeze=False, sharex=shared != "", sharey=shared == "xy")
        for line, panel in zip(axes, panels, strict=True):
            for ax, drawing in zip(line, drawings, strict=True):
                part = rows[rows["panel"] == panel]
                title = panel if ax is line[0] else ""
                if drawing is not None:
                    part, title = part[part["drawing"] == drawing], f"{title}\n{drawing}"
                if part.empty:
                    ax.set_axis_off()
                    continue
                ax.set_title(title)
                yield ax, part
                ax.set_ylabel(self.y_label if ax is line[0] else "")
                ax.set_xlabel(self.x_label if panel == panels[-1] else "")


def whiskers(rows: pd.DataFrame, value: str = "value", prefix: str = "") -> np.ndarray:
    """How far the limits of rows lie below and above their values: (2, n)."""
    low, high = rows[f"{prefix}low"], rows[f"{prefix}high"]
    return np.asarray(np.clip([rows[value] - low, high - rows[value]], 0, None))


def shades(names: Sized) -> np.ndarray:
    """One colour each, from dark to light, for things that have an order."""
    return np.asarray(mpl.colormaps["cividis"](np.linspace(0, 0.9, len(names))))


def margin_band(span: Callable[..., Any], line: Callable[..., Any], margin: float,
                about: float = 0.0) -> None:  # fmt: skip
    """Draw the changes that do not matter as a band, and where nothing has changed as a line."""
    span(about - margin, about + margin, color=GREY, alpha=0.25, lw=0)
    line(about, color="#555555", lw=0.8)


def legend_below(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Name what is drawn below all fields, in as many columns as its names leave room for."""
    columns = int(110 // (6 + max(map(len, entries), default=1)))
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=max(1, columns)
    )


@dataclass(frozen=True)
class BarsByGroup(Drawing):
    """Bars of every group side by side, one for each width from wide to narrow, with intervals.

    Where the rows list ``seeds``, each is a dot on its bar; the bar is hollow where they lie far
    apart. The band of a group reaches from its ``margin_low`` to its ``margin_high``.
    """

    template = "bars_by_group"
    x, y = "group", "value"

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        named = rows["width"].unique()
        colours = dict(zip(named, shades(named), strict=True))
        beside = sum(map(len, named)) <= 40  # the title leaves room for so many letters
        for ax, part in self.fields(figure, rows, 2.8):
            groups, widths = part["group"].unique(), part["width"].unique()
            step = 0.8 / len(widths)
            first = part.drop_duplicates("group")
            for number, width in enumerate(widths):
                colour = colours[width]
                at = part[part["width"] == width].set_index("group").reindex(groups)
                x = np.arange(len(groups)) - 0.4 + step * (number + 0.5)
                bars = ax.bar(
                    x, at["value"], step, color=colour,
                    yerr=whiskers(at), error_kw={"lw": 0.7, "ecolor": "#555555"},
                )  # fmt: skip
                for place, bar, values in zip(x, bars, at.get("seeds", []), strict="seeds" in at):
                    if isinstance(values, list) and np.ptp(values) > APART:
                        bar.set(facecolor="none", edgecolor=colour, linestyle="--", linewidth=1)
                    if isinstance(values, list) and len(values) > 1:
                        ax.plot(
                            [place] * len(values), values, ls="", marker="o", ms=2.2,
                            mfc="#D55E00", mec="white", mew=0.3, zorder=3,
                        )  # fmt: skip
            if "margin_low" in first:
                ax.bar(
                    range(len(groups)), first["margin_high"] - first["margin_low"], 0.9,
                    first["margin_low"], color=GREY, alpha=0.35, lw=0, zorder=2.5,
                )  # fmt: skip
            names = zip(first["group"], first["n"], strict=True)
            ax.set_xticks(range(len(groups)), [f"{group}\nn={n}" for group, n in names])
            ax.grid(False, axis="x")
            if beside:
                ax.legend(
                    [Patch(color=colours[width]) for width in widths], widths,
                    ncols=len(widths), loc="lower left", bbox_to_anchor=(0.35, 1), borderpad=0,
                )  # fmt: skip
        if not beside:
            legend_below(figure, {name: Patch(color=colour) for name, colour in colours.items()})


@dataclass(frozen=True)
class TradeOff(Drawing):
    """Two changes against fp32, in points: a point and the name ``series`` for each method.

    All fields have the same axes, which are logarithmic beyond the ``margin``. Its bands are grey,
    and fp32 is where the lines cross.
    """

    template = "trade_off"
    methods = "method"

    def _draw(self, figure: Figure, rows: pd.DataFrame) -> None:
        styles, entries = looks(rows["method"]), {}
        margin = rows["margin"].iloc[0]
        for ax, part in self.fields(figure, rows, 2.9, shared="xy"):
            margin_band(ax.axvspan, ax.axvline, margin)
            margin_band(ax.axhspan, ax.axhline, margin)
            for (method, name), at in part.groupby(["method", "series"], sort=False):
                colour, marker = styles[method]
                entries[name] = ax.errorbar(
                    at["x"], at["y"], whiskers(at, "y", "y_"), whiskers(at, "x", "x_"),
                    fmt=marker, ms=5, lw=0.8, color=colour,
                )  # fmt: skip
            beyond_margin(ax, "x", margin)
            beyond_margin(ax, "y", margin)
            ax.grid(visible=True, axis="both")
            ax.tick_params(axis="x", labelsize=7)
        legend_below(figure, {name: entries[name] for name in rows["series"].unique()})


def beyond_margin(ax: Axes, axis: Literal["x", "y"], margin: float) -> None:
    """Make an axis of changes logarithmic beyond the margin, so that small and large ones fit."""
    bend, own = max(margin, 0.5), getattr(ax, f"{axis}axis")
    getattr(ax, f"set_{axis}scale")("symlog", linthresh=bend)
    own.set_major_locator(FixedLocator([-50, -10, -bend, 0, bend, 10, 50]))
    own.set_major_formatter(_signed)
    own.set_minor_locator(NullLocator())


def _signed(value: float, _: float | None = None) -> str:
    return f"{value:+g}".replace("-", "−") if value else "0"


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
        for ax, part in self.fields(figure, rows, max(3.2, 1 + 0.16 * lines)):
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
                    text = f"{value:.0f}" if abs(value) >= 100 else f"{round(value, 2) + 0.0:.2g}"
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
        styles = dict(zip(series, zip(shades(series), cycle(MARKERS), strict=False), strict=True))
        drawn, named = {}, []
        for ax, part in self.fields(figure, rows, 3.2):
            for name, at in part.groupby("series", sort=False):
                colour, marker = styles[name]
                drawn[name] = ax.errorbar(
                    at["x"], at["y"], whiskers(at, "y") if "low" in at else None,
                    ls="-" if self.joined else "", lw=1, ms=4, color=colour, elinewidth=0.7,
                    marker=marker, alpha=0.85,
                )[0]  # fmt: skip
            scales: dict[Literal["x", "y"], str] = {"x": self.x_scale, "y": self.scale}
            for axis, scale in scales.items():
                if scale != "linear":
                    _logarithmic(ax, axis, scale)
            if self.diagonal:
                ax.axline((0, 0), (1e-3, 1e-3), color=GREY, lw=0.8, zorder=0)
            if len(series) == 1 and "group" in part:
                named.append((ax, part.rename(columns={"group": "name"})))
        if len(series) > 1:
            legend_below(figure, {name: drawn[name] for name in series})
        name_points(figure, named)

    def described(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Rows as the template needs them."""
        return super().described(rows).assign(**{"diagonal": True} if self.diagonal else {})


@dataclass(frozen=True)
class Histograms(Points):
    """Shares as joined points, on an axis that is logarithmic beyond 0.01."""

    template = "histograms"
    joined: bool = True
    scale: Scale = "symlog"


@dataclass(frozen=True)
class LogPoints(Points):
    """Points whose axes are both logarithmic, beyond 0.01 on either side of zero."""

    template = "points_log"
    scale: Scale = "symlog"
    x_scale: Scale = "symlog"


def name_points(
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
