"""The report: one self-contained page that opens offline."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import pandas as pd
import yaml

from quantskew.analysis import answer
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.remedies import side_by_side
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import cell
from quantskew.analysis.views import first_groupings
from quantskew.fairness.catalogue import CATALOGUE
from quantskew.files import write_text
from quantskew.names import BASELINE, WHOLE, width_name
from quantskew.schemas import POINT, VARIANT


class Table(NamedTuple):
    """Rows with a title, and what to know for reading them."""

    title: str
    rows: pd.DataFrame
    note: str = ""


LONGEST = 300
"""Most rows of a table on the page, which shows those of a longer one that matter most."""
MATTERS = {"probability": "largest", "p_holm": "smallest", "p_chance": "smallest",
           "fdr": "smallest", "bound": "largest", "value": "smallest"}  # fmt: skip
"""What matters most: the first of these columns that a table has."""


def shortened(table: Table) -> Table:
    """Keep the rows of a long table that matter most, in their order, and name their number."""
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
    note = f"{table.note} {LONGEST} of {len(rows):,} rows, {which}; all are in data/analysis."
    rows = rows.loc[ranked[:LONGEST].sort_values()]
    return table._replace(rows=rows, note=note.strip())


def flow_tables(frames: Mapping[str, pd.DataFrame]) -> list[Table]:
    """Tables beside the impact flow: verdicts on the declared claims, and mediation."""
    claims, mediation = frames["claims"], frames["mediation"]
    return [
        Table(
            "Claims of the field, tested on this study",
            _of(
                claims,
                "claim text width verdict missing estimand compared estimate boundary low high d "
                "d_low d_high p_value p_holm family units",
                ("dataset", "model"),
            ),
            "Verdicts speak of the models and data sets of this study. Estimates are shares of 1, "
            "with limits for networks of other seeds on other test samples, or rank correlations, "
            "which show association, not cause. p is two-sided, adjusted by Holm within a family; "
            "limits are not adjusted; d is Cohen's. Cannot tell: too few networks or samples.",
        ),
        Table(
            "The accuracy lost, followed from step to step",
            _of(
                mediation.dropna(subset="total"),
                "width step mediator rows total direct association_through",
                ("dataset", "model"),
            ),
            "Slopes on ranks, −1 to 1, of the accuracy that a group lost on a step of the flow: in "
            "total, and with the next step held fixed; the difference goes through that step. "
            "Association, not cause: all steps grow as the width falls.",
        ),
    ]


def tables(headline: pd.DataFrame, frames: Mapping[str, pd.DataFrame], study: Study) -> list[Table]:
    """All other tables of the page."""
    levels, effects = frames["levels"], frames["effects"]
    against = first_groupings(effects[effects["group"] == WHOLE], study)
    return [
        Table(
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
        Table(
            "Remedies: what they cost, and what they change against plain quantization",
            side_by_side(frames["remedies"], ["overall", "fvo", "worst_group"]).drop(
                columns=["attribute", "images_trained"]
            ),
            "The training cost is the number of images trained on, as a ratio to that of fp32. "
            "Codes of one width cost the same to compute with, so no remedy costs more there. At "
            "each width the cheapest of those nearest to the targets is marked.",
        ),
        Table("Plain quantization against fp32", headline),
        Table(
            "Plain quantization against fp32: every metric of every grouping",
            every_metric(levels, effects, study),
            "Changes of parity and of all other metrics that compare groups, wherever they have a "
            "meaning. All but overall accuracy, FVO and the worst group of the first grouping are "
            "exploratory.",
        ),
        Table(
            "Methods: FVO, and what chance would show",
            _of(
                levels[levels["metric"] == "fvo"],
                "value low high seed_sd debiased chance_mean chance_upper p_chance",
            ),
        ),
        Table(
            "Methods: changes against fp32 and against plain quantization",
            _of(
                against,
                "reference metric change low high p_holm fdr verdict about decide family note",
            ),
            "First grouping, paired on the same test samples. Headline outcomes are one family, "
            "adjusted by Holm; the others are exploratory, and of those whose fdr is below a "
            "level at most that share is false on average. Decide is the number of images (of "
            "seeds, where the verdict is about the method) that would probably decide.",
        ),
        Table(
            "Groups: accuracy",
            _of(levels[levels["metric"] == "accuracy"], "group n counted value low high seed_sd"),
        ),
        Table(
            "Groups: changes of accuracy against fp32, and how many images would decide",
            _of(
                effects[(effects["metric"] == "accuracy") & (effects["reference"] == BASELINE)],
                "group counted change low high high_all may_lose_most fdr verdict about decide",
            ),
            f"Exploratory. Equivalent: surely within {100 * study.statistics.margin:g} points. "
            "Decide is the number of images of the group (of seeds, where the verdict is about the "
            "method) that would probably decide. All upper limits high all hold at once.",
        ),
        Table(
            "Scores of each group against fp32: probabilities, and not only answers",
            _of(
                frames["scores"].dropna(subset="change"),
                "group score n before after change low high fdr verdict note",
            ),
            "From the logits, for these networks; the false discovery rate is that of the table. "
            "Nats, or shares of 1: below the margin the change does not matter. Two networks never "
            "agree in all, so a distance is worse only where it is surely above the margin.",
        ),
        Table(
            "The files that ship: accuracy of each group as ONNX Runtime answers",
            _of(
                first_groupings(frames["deployed_groups"], study),
                "seed group n fp32 pytorch accuracy low high lost gained bound",
            ),
            "Beside it that of the fp32 file, and of the same codes simulated in PyTorch. Lost and "
            "gained are samples, against the fp32 file; no more accuracy is lost than the bound.",
        ),
        Table(
            "Certificates: no group loses more accuracy than this",
            _of(
                first_groupings(frames["certificates"], study),
                "attribute group n lost gained bound",
                VARIANT,
            ),
            "Upper bounds that hold for all groups of a grouping at once.",
        ),
    ]


def _of(rows: pd.DataFrame, names: str, key: Sequence[str] = (*POINT, "attribute")) -> pd.DataFrame:
    return rows[[*key, *names.split()]]


def every_metric(levels: pd.DataFrame, effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Changes of every metric that compares groups, under the reference method.

    Returns
    -------
    pandas.DataFrame
        One row a data set, model, grouping and metric, in the order of the catalogue: the value at
        fp32, missing where ``levels`` has none, then the change and its verdict at every width. A
        metric without a meaning for a grouping has no row in ``effects`` and none here.
    """
    key = ["dataset", "model", "attribute", "metric"]
    effects = effects[
        (effects["group"] == WHOLE)
        & (effects["reference"] == BASELINE)
        & (effects["method"] == study.reference)
    ]
    start = levels[(levels["group"] == WHOLE) & (levels["method"] == BASELINE)]
    rows = effects[key].drop_duplicates().set_index(key)
    rows[BASELINE] = start.set_index(key)["value"].reindex(rows.index)
    for bits, part in sorted(effects.groupby("bits"), reverse=True):
        at = part.set_index(key)
        rows[f"{width_name(bits)}_change"] = at["change"]
        rows[f"{width_name(bits)}_verdict"] = at["verdict"].reindex(rows.index, fill_value="")
    order = {name: place for place, name in enumerate(CATALOGUE)}
    rows = rows.reset_index().sort_values("metric", key=lambda names: names.map(order))
    return rows.sort_values(key[:3], kind="stable")


def limits(frames: Mapping[str, pd.DataFrame], study: Study) -> list[str]:
    """Say what the data of this run cannot tell."""
    sentences = [
        "Where the groups are the classes themselves, demographic parity, equalized odds and "
        "disparate impact have no meaning and are left out; the gap of recall is FVO.",
        "Widths below 8 bits are simulated: weights are stored packed and computed in fp32.",
    ]
    levels = frames["levels"]
    hollow = levels.loc[levels["collapsed"], ["model", "method", "bits"]].drop_duplicates()
    if len(hollow):
        names = ", ".join(
            f"{row.model} {row.method} {width_name(row.bits)}" for row in hollow.itertuples()
        )
        sentences.append(
            f"These networks answer nearly one class, so their parity means nothing: {names}."
        )
    small = levels[(levels["metric"] == "accuracy") & ~levels["counted"]]
    names = (small["attribute"] + " " + small["group"]).unique()
    if len(names):
        sentences.append(
            f"{len(names)} groups have fewer than {study.groups.minimum} test samples and enter "
            f"no maximum: {', '.join(names)}."
        )
    return sentences


def render(
    *,
    answer: list[str],
    drawn: Mapping[str, str],
    flow: list[Table],
    tables: list[Table],
    limits: list[str],
    study: Study,
    parameters: Mapping[str, Any],
    hashes: Mapping[str, str],
    versions: Mapping[str, str],
) -> str:
    """Fill the page.

    Parameters
    ----------
    answer
        Paragraphs that say who is harmed, by how much, how sure that is, and what to do.
    drawn
        The SVG of figures by their names in :data:`FIGURES`, in any order.
    flow, tables
        Those of the impact flow, and the others. They are shown in pages, filtered by words and
        sorted by a click on a column.
    limits
        What the data cannot tell.
    study
        Its seeds are named.
    parameters
        All parameters, printed in full.
    hashes
        Content hash of each file behind the page, by its path.
    versions
        Version of each library, by its name.
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
        figures=[(one, drawn[name]) for name, one in FIGURES.items() if name in drawn],
        flow=map(shortened, flow),
        tables=map(shortened, tables),
        limits=limits,
        parameters=yaml.safe_dump(dict(parameters), sort_keys=False),
        hashes=hashes,
        versions=versions,
        seeds=", ".join(map(str, study.seeds)),
    )


def write(
    path: Path, frames: Mapping[str, pd.DataFrame], study: Study, **extras: Mapping[str, str]
) -> None:
    """Write the page of ``levels`` and ``effects`` alone, such as those of a comparison of tables.

    Parameters
    ----------
    path
        The HTML file.
    frames, study
        Tables by name, and what was compared.
    **extras
        ``hashes`` and ``versions``, as in :func:`render`.
    """
    levels, effects = frames["levels"], frames["effects"]
    changed = effects[(effects["metric"] == "accuracy") & (effects["reference"] == BASELINE)]
    accuracy = _of(levels[levels["metric"] == "accuracy"], "group n counted value low high")
    head = answer.headline(effects, study)
    page = render(
        answer=answer.sentences(head, study) if len(head) else [],
        drawn={
            name: one.drawing.svg(one.rows(frames, study))
            for name, one in FIGURES.items()
            if {*one.tables} <= {*frames}
        },
        flow=[],
        tables=[
            Table(
                "Groups: changes of accuracy against fp32, and how many images would decide",
                _of(changed, "group counted change low high high_all fdr verdict decide"),
            ),
            Table("Groups: accuracy", accuracy),
        ],
        limits=limits(frames, study),
        study=study,
        parameters={},
        hashes=extras.get("hashes", {}),
        versions=extras.get("versions", {}),
    )
    write_text(path, page)
