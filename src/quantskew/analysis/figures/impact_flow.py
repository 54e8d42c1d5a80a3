"""The impact flow as one picture (Figure 2 of Bellam & Kim), with the numbers of a study."""

from dataclasses import dataclass
from textwrap import fill

import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.patches import FancyBboxPatch, Patch

from quantskew.analysis.attribution import LOST, STEPS, changes
from quantskew.analysis.figures.drawing import GREY, Drawing, legend_below
from quantskew.analysis.figures.registry import figure
from quantskew.analysis.study import Study
from quantskew.names import width_name

ROLES = {"the group that lost most": "#CC6677", "the group that lost least": "#332288"}
_UNITS = {
    "change of the weights": (100, " %"), "fall of the true class's probability": (100, " points"),
    "rise of the loss": (1, " nats"), LOST: (100, " points"),
}  # fmt: skip


@dataclass(frozen=True)
class Flow(Drawing):
    """A box for each ``step``, with a number and a bar for each ``role``, joined by arrows."""

    template = "flow"
    spoken = True
    x, y = "left", "level"

    def _draw(self, figure: matplotlib.figure.Figure, rows: pd.DataFrame) -> None:
        for ax, part in self.fields(figure, rows.rename(columns={"drawing": "who"}), 1.6):
            ax.set_title(f"{part['panel'].iloc[0]}: {part['who'].iloc[0]}")
            ax.set(xlim=(0, part["left"].max() + 1), ylim=(0, 1))
            ax.set_axis_off()
            for (left, step), box in part.groupby(["left", "step"], sort=False):
                last = left == part["left"].max()
                ax.add_patch(
                    FancyBboxPatch(
                        (left + 0.05, 0.06), 0.8, 0.88, "round,pad=0.02,rounding_size=0.04",
                        fc="none", ec="black" if last else GREY, lw=1.4 if last else 0.8,
                    )
                )  # fmt: skip
                ax.text(left + 0.06, 0.93, step, va="top", fontsize=7.5, fontweight="bold")
                for one in box.itertuples():
                    ax.text(left + 0.06, one.level + 0.05, one.text, fontsize=8)
                    ax.barh(one.level, 0.78 * one.share, 0.05, left=left + 0.06,
                            color=ROLES[one.role])  # fmt: skip
                if not last:
                    ax.annotate("", (left + 1.03, 0.5), (left + 0.87, 0.5),
                                arrowprops={"arrowstyle": "->", "color": "#555555"})  # fmt: skip
        legend_below(figure, {role: Patch(color=colour) for role, colour in ROLES.items()})


@figure(
    order=100,
    section="flow",
    title="The impact flow: from the weights to the accuracy that a group loses",
    alternative=(
        "Boxes joined by arrows, one for each step, with the numbers of the group that lost most "
        "and of the one that lost least."
    ),
    caption=(
        "How far each step moved from fp32 at the narrowest width at which all were measured, "
        "under plain quantization; means over the seeds that were surveyed. All groups share the "
        "weights; in each later box the longer bar is full. The turn of the logits is a cosine "
        "distance, from 0 to 2. After Figure 2 of Bellam & Kim."
    ),
    drawing=Flow(),
    prints=True,
)
def impact_flow(
    study: Study, groups: pd.DataFrame, layers: pd.DataFrame, curvature: pd.DataFrame
) -> pd.DataFrame:
    """Follow the groups that lost most and least through the six steps to the accuracy lost."""
    tables = {"groups": groups, "layers": layers, "curvature": curvature}
    parts = [pd.DataFrame(columns=["panel", "drawing", "left", "step", "role", "level", "text"])]
    if all(len(rows) for rows in tables.values()):
        moved = changes(tables, study).dropna(subset=[*STEPS])
        for (dataset, model), rows in moved.groupby(["dataset", "model"], sort=False):
            bits = rows["bits"].min()
            means = rows[rows["bits"] == bits].groupby("group")[[*STEPS, LOST]].mean()
            if len(means) > 1:
                panel = f"{dataset} · {model} at {width_name(bits)}"
                parts.append(_boxes(means).assign(panel=panel))
    return pd.concat(parts)


def _boxes(means: pd.DataFrame) -> pd.DataFrame:
    ends = means.loc[[means[LOST].idxmax(), means[LOST].idxmin()]]
    most, least = map(str, ends.index)
    largest = ends.abs().max()
    return pd.DataFrame(
        {
            "drawing": f"{most} lost most, {least} lost least", "left": left,
            "step": fill(step, 17), "role": role, "level": level, "text": _written(step, value),
            "share": abs(value) / largest[step] if largest[step] else 0.0,
        }
        for left, step in enumerate(ends)
        for role, level, value in zip(ROLES, (0.36, 0.14), ends[step], strict=True)
    )  # fmt: skip


def _written(step: str, value: float) -> str:
    factor, unit = _UNITS.get(step, (1, ""))
    value *= factor
    digits = 1 if factor == 100 else 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{np.round(value, digits) + 0.0:,.{digits}f}{unit}".replace("-", "−")
