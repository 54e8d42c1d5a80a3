"""The report: one self-contained page that opens offline."""

from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, NamedTuple

import jinja2
import pandas as pd
import yaml
from matplotlib.figure import Figure as MatplotlibFigure

from quantskew.analysis import figures, views
from quantskew.analysis.remedies import side_by_side
from quantskew.analysis.study import Study
from quantskew.engine.fingerprint import LIBRARIES
from quantskew.schemas import POINT, VARIANT


class Figure(NamedTuple):
    """A drawing, what it shows, and what to know for reading it."""

    title: str
    svg: str
    alternative: str
    note: str


class ReportTable(NamedTuple):
    """Rows with a title; numbers are formatted by :func:`cell`."""

    title: str
    rows: pd.DataFrame
    note: str = ""


LONGEST = 300
"""Rows of a table on the page; of a longer one those that matter most stand there."""
MATTERS = {"probability": "largest", "p_holm": "smallest", "p_chance": "smallest",
           "bound": "largest", "value": "smallest"}  # fmt: skip
"""By which column: the first of these that a table has."""


def shortened(table: ReportTable) -> ReportTable:
    """Keep the rows of a long table that matter most, in their order, and say where the rest is."""
    rows = table.rows.reset_index(drop=True)
    if len(rows) <= LONGEST:
        return table
    column = next((name for name in MATTERS if name in rows), None)
    ranked, which = rows.index, "first"
    if column is not None:
        which = f"with the {MATTERS[column]} {column.replace('_', ' ')}"
        ranked = (
            rows[column].sort_values(ascending=MATTERS[column] == "smallest", kind="stable").index
        )
    said = f"{LONGEST} of {len(rows):,} rows, {which}; all are in data/analysis."
    kept = rows.loc[ranked[:LONGEST].sort_values()]
    return table._replace(rows=kept, note=f"{table.note} {said}".strip())


class Drawing(NamedTuple):
    """How a figure is drawn and explained."""

    draw: Callable[[MatplotlibFigure, pd.DataFrame], None]
    title: str
    alternative: str
    note: str


FIGURES = {
    "accuracy_by_group": Drawing(
        figures.bars_by_group("accuracy, %", percent=True),
        "Accuracy of each group as the width falls",
        "Bars of accuracy, one a group and width; the numbers are in the table of groups.",
        "Plain post-training quantization. Bars are means over seeds, dots the networks of each "
        "seed; whiskers say how far other test samples could move the mean, not what another "
        "training would give. After Figure 1 of Bellam & Kim.",
    ),
    "fvo_by_width": Drawing(
        figures.lines_by_width,
        "Largest gap between two groups (FVO) by width and method",
        "Lines of FVO against width, one a method; the numbers are in the table of methods.",
        "The grey field is where 95 % of classifiers without any gap between groups would lie on "
        "these test samples: FVO is a maximum, so chance alone makes it positive. Whiskers: other "
        "test samples, not other seeds.",
    ),
    "trade_off": Drawing(
        figures.trade_off,
        "What fairness costs in accuracy",
        "Points of overall accuracy against FVO, a field a width, one point a method.",
        "Better is further right and lower. Whiskers: other test samples, not other seeds. After "
        "Figures 11 and 12 of Bellam & Kim.",
    ),
    "loss_by_group": Drawing(
        figures.bars_by_group("loss, nats", percent=False),
        "Loss of each group as the width falls",
        "Bars of mean cross-entropy, one a group and width.",
        "Whiskers run from the lowest to the highest seed. After Figure 7 of Bellam & Kim.",
    ),
}

FLOW = {
    "weight_change": Drawing(
        figures.bars,
        "Weights: how far they move, how many become zero",
        "Bars by width and method of the mean change of a weight, and of the share of zeros.",
        "Means over seeds; whiskers from lowest to highest. After Figure 3 of Bellam & Kim.",
    ),
    "layer_bits": Drawing(
        figures.heatmap,
        "Width of each layer by method",
        "Heat maps of layer by method, a field a width of the study; the number is the layer's.",
        "Plain quantization beside the methods that give layers different widths; all have the "
        "size of the uniform width but those that widen the first and the last layer.",
    ),
    "distributions": Drawing(
        figures.points(ylabel="share", joined=True, scale="symlog"),
        "Weights and distances to the decision boundary",
        "Histograms as lines, one a width: of all weights, and of the true class's probability.",
        "One seed, plain quantization. After Figures 4 and 6 of Bellam & Kim.",
    ),
    "logits": Drawing(
        figures.heatmap,
        "Logits: how far they turn, how much they vary",
        "Heat maps of group by width: cosine distance to the fp32 logits, and their variance.",
        "Means over samples and seeds. After Figure 5 of Bellam & Kim.",
    ),
    "gradient_norms": Drawing(
        figures.points(ylabel="gradient norm"),
        "Gradient norm against group size and accuracy",
        "Points, one a group, at int4.",
        "At equal n every group counts as many test samples as the smallest, for a mean over fewer "
        "is longer by chance alone. Whiskers, of the plain norm: other test samples. After "
        "Figure 8 of Bellam & Kim.",
    ),
    "eigenvalues": Drawing(
        figures.heatmap,
        "Largest eigenvalue of the Hessian, and gradient norm",
        "Heat maps of group by width.",
        "Batch norms are folded at every width, so that networks compare. n is of the gradient; "
        "the eigenvalue is of as many of these samples as the study names. After Figure 10 of "
        "Bellam & Kim.",
    ),
    "steepness": Drawing(
        figures.points(ylabel="largest eigenvalue", scale="log"),
        "Largest eigenvalue against accuracy, confidence and gradient norm",
        "Points, one a group and width.",
        "Whiskers: other test samples, where the study asks for errors of the eigenvalues. "
        "After Figure 9 of Bellam & Kim.",
    ),
    "predicted_damage": Drawing(
        figures.points(
            "predicted excess loss, nats", "measured, nats", scale="symlog", diagonal=True
        ),
        "Damage predicted by gradient and curvature at fp32, and measured",
        "Points, one a group and width, about a diagonal.",
        "Predicted by the expansion of Liu et al. to second order, on the same samples. Points off "
        "the diagonal are where the weights have moved too far for it to tell anything.",
    ),
    "layer_damage": Drawing(
        partial(figures.heatmap, signed=True),
        "Which layers hurt which group",
        "Heat maps of layer by group: how far the loss rises when only that layer is quantized.",
        "Nats, over fp32 on the same few samples, from the first layer to the last.",
    ),
    "example_difficulty": Drawing(
        figures.points("epoch", "accuracy", joined=True),
        "Difficulty of the classes while fp32 is trained",
        "Lines of accuracy by epoch, one a class, on training and on test samples.",
        "The same number of samples of each class is watched; training is not balanced. What "
        "differs is their difficulty and how many of the class the network learns from. §4.6 of "
        "Bellam & Kim balances those too.",
    ),
    "attribution": Drawing(
        partial(figures.heatmap, signed=True),
        "Which steps of the flow go with the accuracy lost",
        "Heat maps of rank correlations: step by width, over groups, and step by group, over "
        "widths.",
        "Spearman's, between the change of each step from fp32 and the accuracy lost. Empty where "
        "fewer than three can be compared or all are equal. Association, not cause.",
    ),
}


def claimed(claims: pd.DataFrame) -> ReportTable:
    """Verdicts on the declared claims of the field."""
    return ReportTable(
        "Claims of the field, tested on this study",
        _of(
            claims,
            "claim text width verdict missing estimand compared estimate boundary low high d d_low "
            "d_high p_value p_holm family units",
            ("dataset", "model"),
        ),
        "Verdicts speak of the models and data sets of this study. Estimates are shares of 1, with "
        "limits for networks of other seeds on other test samples, or rank correlations, which "
        "show association, not cause. p is two-sided, adjusted by Holm within a family; limits are "
        "not adjusted. Undecided means that these data cannot tell; d is Cohen's.",
    )


def mediated(mediation: pd.DataFrame) -> ReportTable:
    """How much of each step's relation to the accuracy lost is mediated by the next step."""
    names = ["dataset", "model", "width", "step", "mediator", "rows"]
    slopes = ["total", "direct", "association_through"]
    return ReportTable(
        "The accuracy lost, followed from step to step",
        mediation[[*names, *slopes]].dropna(subset="total"),
        "Slopes on ranks, −1 to 1, of the accuracy that a group lost on a step of the flow: in "
        "total, and with the next step held fixed; the difference goes through that step. "
        "Association, not cause: all steps grow as the width falls.",
    )


def listed(
    headline: pd.DataFrame, frames: Mapping[str, pd.DataFrame], study: Study
) -> list[ReportTable]:
    """Tables of the page; the long ones show the first grouping, the rest stays in Parquet."""
    levels, effects = frames["levels"], frames["effects"]
    spread = levels[levels["metric"] == "fvo"]
    against = views.first_groupings(effects, study)
    against = against[against["metric"].isin(["overall", "fvo", "worst_group"])]
    promised = views.first_groupings(frames["certificates"], study)
    return [
        ReportTable(
            "What to ship: accuracy, FVO and size",
            _of(
                frames["frontier"],
                "recommended bytes accuracy fvo fvo_high loss loss_bound excess on_frontier "
                "probability",
                POINT,
            ),
            "A variant is on the frontier if no other of its model is as good at all three and "
            "better at one; its probability is the share of redrawn test sets on which it is. "
            "Excess is how far it is from the targets. Each certificate holds by itself; choosing "
            "among many makes an unlucky one likelier.",
        ),
        ReportTable(
            "Remedies: what they cost, and what they change against plain quantization",
            side_by_side(frames["remedies"], ["overall", "fvo", "worst_group"]).drop(
                columns=["attribute", "images_trained"]
            ),
            "Training is counted in images, as a ratio to that of fp32. Codes of one width cost "
            "the same to compute with, so no remedy costs more there. At each width the cheapest "
            "of those nearest to the targets is marked.",
        ),
        ReportTable("Plain quantization against fp32", headline),
        ReportTable(
            "Methods: FVO, and what chance would show",
            _of(spread, "value low high seed_sd debiased chance_mean chance_upper p_chance"),
        ),
        ReportTable(
            "Methods: changes against fp32 and against plain quantization",
            _of(against, "reference metric change low high p_holm verdict"),
            "Paired on the same test samples; p adjusted by Holm within a method and metric.",
        ),
        ReportTable(
            "Groups: accuracy",
            _of(
                levels[levels["metric"] == "accuracy"],
                "group n counted value low high seed_sd",
            ),
        ),
        ReportTable(
            "Groups: no detectable change, and what would have been detected",
            _of(
                effects[effects["detectable"].notna()],
                "group change low high p_holm verdict detectable",
            ),
            "Against fp32. A drop of at least this share of a single network would have been seen "
            "with 80 % chance; smaller ones may be there.",
        ),
        ReportTable(
            "The files that ship: accuracy of each group as ONNX Runtime answers",
            _of(
                views.first_groupings(frames["deployed_groups"], study),
                "seed group n fp32 pytorch accuracy low high lost gained bound",
            ),
            "Beside it that of the fp32 file, and of the same codes simulated in PyTorch. Lost and "
            "gained are samples, against the fp32 file; no more accuracy is lost than the bound.",
        ),
        ReportTable(
            "Certificates: no group loses more accuracy than this",
            _of(promised, "attribute group n lost gained bound", VARIANT),
            "Upper bounds that hold for all groups of a grouping at once.",
        ),
    ]


def _of(
    rows: pd.DataFrame, names: str, key: tuple[str, ...] = (*POINT, "attribute")
) -> pd.DataFrame:
    return rows[[*key, *names.split()]]


def limits(frames: Mapping[str, pd.DataFrame], study: Study) -> list[str]:
    """What the data of this run cannot tell."""
    told = [
        "Where the groups are the classes themselves, demographic parity, equalized odds and "
        "disparate impact have no meaning and are left out; the gap of recall is FVO.",
        "Widths below 8 bits are simulated: weights are stored packed and computed in fp32.",
    ]
    levels = frames["levels"]
    small = levels[(levels["metric"] == "accuracy") & ~levels["counted"]]
    names = (small["attribute"] + " " + small["group"]).unique()
    if len(names):
        told.append(
            f"{len(names)} groups have fewer than {study.groups.minimum} test samples and enter "
            f"no maximum: {', '.join(names)}."
        )
    return told


def render(
    *,
    answer: list[str],
    drawn: list[Figure],
    why: list[Figure],
    claims: ReportTable,
    mediated: ReportTable,
    tables: list[ReportTable],
    limits: list[str],
    study: Study,
    hashes: Mapping[str, str],
) -> str:
    """Fill the page.

    Parameters
    ----------
    answer
        Paragraphs that say who is hurt, by how much, how sure, what to do.
    drawn
        Figures in the order of reading.
    why, claims, mediated
        Figures of the impact flow, verdicts on the declared claims, and mediation in the flow.
    tables
        In pages, which can be filtered, and sorted by a click on a column.
    limits
        What the data cannot tell.
    study
        Its parameters are printed in full.
    hashes
        Path to content hash of the data behind the page.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("quantskew.analysis", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["cell"] = cell
    return environment.get_template("report.html.j2").render(
        answer=answer,
        figures=drawn,
        why=why,
        claims=shortened(claims),
        mediated=shortened(mediated),
        listed=[shortened(table) for table in tables],
        limits=limits,
        parameters=yaml.safe_dump(
            study.model_dump(mode="json", exclude={"compute"}), sort_keys=False
        ),
        hashes=hashes,
        versions={name: version(name) for name in ("quantskew", *LIBRARIES)},
        seeds=", ".join(map(str, study.seeds)),
    )


def cell(value: Any) -> str:
    """Format a value of a table: shares and numbers to four digits, nothing for NaN.

    Examples
    --------
    >>> cell(0.123456), cell(float("nan")), cell("a")
    ('0.1235', '', 'a')
    """
    if isinstance(value, float):
        value = round(value, 12)  # what is left of 0.1 + 0.2 − 0.3 is 0
        return "" if value != value else f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"
    return str(value)
