"""What was found about some networks, to be looked at, drawn and kept: the result of any question.

It holds tables of a study and the answers behind them, whoever gave these, and needs no network.
"""

import html
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from quantskew.analysis import answer
from quantskew.analysis.study import Study
from quantskew.errors import UserError, close_names, extras
from quantskew.names import BASELINE

if TYPE_CHECKING:
    import numpy as np
    from fairlearn.metrics import MetricFrame
    from matplotlib.figure import Figure

_SHOWN = ["method", "bits", "attribute", "group", "change", "low", "high", "verdict"]


@dataclass(frozen=True, repr=False)
class Result:
    """What was found about every group.

    Attributes
    ----------
    frames
        ``levels``, ``effects``, ``certificates``, and ``groups`` where logits are known: tables by
        name, as :data:`quantskew.schemas.TABLES` describes them.
    study
        Parameters with which the tables were computed.
    predictions
        One row a sample: its ``id``, its ``label``, and the answer of each network, as names of
        classes.
    attributes
        What is known of the samples, in the order of ``predictions``.
    """

    frames: dict[str, pd.DataFrame]
    study: Study
    predictions: pd.DataFrame
    attributes: pd.DataFrame

    def to_frame(self, table: str | None = None) -> pd.DataFrame:
        """Return one of the tables, the first unless a name is given."""
        table = table or next(iter(self.frames))
        if table not in self.frames:
            raise UserError(
                f"no table {table!r}; there are {', '.join(self.frames)}"
                f"{close_names(table, list(self.frames))}"
            )
        return self.frames[table].copy()

    def to_csv(self, path: str | Path, table: str | None = None) -> None:
        """Write one of the tables as CSV, the first unless a name is given."""
        self.to_frame(table).to_csv(path, index=False)

    def plot(self, view: str | None = None) -> "Figure":
        """Draw a figure of the first grouping.

        Parameters
        ----------
        view
            Name of a figure of the study that needs only these tables: ``accuracy_by_group`` (the
            default if the reference is the only method), ``fvo_by_width`` (otherwise the default),
            ``trade_off``, ``loss_by_group`` or ``logits``.
        """
        with extras():
            from quantskew.analysis.figures import FIGURES

        known = [name for name, one in FIGURES.items() if {*one.tables} <= {*self.frames}]
        alone = list(self.study.methods) == [self.study.reference]
        usual = "accuracy_by_group" if alone and "accuracy_by_group" in known else "fvo_by_width"
        view = view or usual
        if view not in known:
            raise UserError(
                f"no view {view!r}; there are {', '.join(known) or 'none of these tables'}"
                f"{close_names(view, known)}"
            )
        figure = FIGURES[view]
        return figure.drawing.canvas(figure.rows(self.frames, self.study))

    def report(self, path: str | Path) -> None:
        """Write the report, one page of HTML that opens offline."""
        with extras():
            from quantskew.analysis import report

        report.write(Path(path), self.frames, self.study)

    def metric_frame(
        self,
        by: str,
        *,
        metrics: Callable[..., Any] | Mapping[str, Callable[..., Any]] | None = None,
        answers: str | None = None,
    ) -> "MetricFrame":
        """Return fairlearn's ``MetricFrame`` of the same answers, for those who go on there.

        Parameters
        ----------
        by
            An attribute, or several joined by ``*``, which are fairlearn's intersections.
        metrics
            As fairlearn takes them: a function of labels and answers, or several by name; the
            accuracy unless given, or of numbers the mean absolute error.
        answers
            Whose answers: a column of ``predictions``, the last one unless given.

        Raises
        ------
        UserError
            When there are no such answers or attributes.
        MissingExtraError
            When fairlearn is not installed.
        """
        with extras():
            from fairlearn.metrics import MetricFrame
        features = [name.strip() for name in by.split("*")]
        own = answers or str(self.predictions.columns[-1])
        for given, known in ((own, self.predictions.columns[2:]), *(
            (name, self.attributes.columns) for name in features
        )):  # fmt: skip
            if given not in known:
                raise UserError(
                    f"there is no {given!r}; there are {', '.join(map(str, known))}"
                    f"{close_names(given, map(str, known))}"
                )

        def accuracy(labels: "np.ndarray", given: "np.ndarray") -> float:
            return float((labels == given).mean())

        def absolute_error(labels: "np.ndarray", given: "np.ndarray") -> float:
            return float(abs(labels - given).mean())

        said = self.predictions[["label", own]]
        numeric = is_numeric_dtype(said["label"])
        said = said if numeric else said.astype(str)
        return MetricFrame(
            metrics=metrics or (absolute_error if numeric else accuracy),
            y_true=said["label"],
            y_pred=said[own],
            sensitive_features=self.attributes[features].astype(str),
        )

    def sentences(self) -> list[str]:
        """Say who is hurt, by how much and how sure that is."""
        head = answer.headline(self.frames["effects"], self.study)
        if head.empty:
            return [f"quantskew result: {', '.join(self.study.methods)}; see to_frame()"]
        return answer.sentences(head, self.study)

    def __repr__(self) -> str:
        return "\n".join(self.sentences())

    def _repr_html_(self) -> str:
        effects = self.frames["effects"]
        own = effects[(effects["metric"] == "accuracy") & (effects["reference"] == BASELINE)]
        said = "".join(f"<p>{html.escape(text)}</p>" for text in self.sentences())
        return said + str(own[_SHOWN].to_html(index=False, float_format="{:.4f}".format))
