"""Write a page of results from its kept tables: ``python docs/results/build.py utkface``.

Run at the root of the project. ``utkface.md.j2`` and the folders that it names become
``utkface.md``. The text of the template says what was done and what others claim; every number and
every verdict is taken from a table.
"""

import json
import math
import re
import runpy
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from scipy.optimize import brentq
from scipy.stats import nct
from scipy.stats import t as student

from quantskew import params, tables
from quantskew.analysis.answer import of_chance
from quantskew.analysis.claims import ALL
from quantskew.analysis.figures import FIGURES
from quantskew.analysis.frontier import recommendations, shipped
from quantskew.analysis.hypotheses import NOTHING
from quantskew.analysis.published import published
from quantskew.analysis.remedies import side_by_side
from quantskew.analysis.typeset import escape_markdown, markdown
from quantskew.analysis.views import first_groupings
from quantskew.answers.judging import compare_answers
from quantskew.engine.command import run
from quantskew.fairness.plan import seeds_to_decide
from quantskew.fairness.verdicts import UNDEFINED
from quantskew.files import write_text
from quantskew.names import BASELINE, FULL_PRECISION, width_name

HERE = Path("docs/results")
POWER = 0.8
"""Chance with which a difference is to be shown that a page says could be shown."""
COLUMNS = {
    "without training": ("", "ptq"),
    "fine-tuned": ("_tuned", "qat"),
    "fine-tuned with a fairness loss": ("_fair", "qat_fair"),
}
"""How the networks of a column end behind the name of their policy, and the uniform ones."""
PARITY = ("demographic_parity", "equalized_odds", "predictive_equality", "disparate_impact")


class Results:
    """The kept tables of a study, and what a page says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.params = params.load(folder / "params.yaml")
        self.study = self.params.judged()
        self.provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        self.plain = self.study.reference
        # of a study that ran before today's statistics, values alone are kept
        self.judged = "converted" not in self.provenance

    def frame(self, name: str) -> pd.DataFrame:
        """Read a table."""
        return pd.DataFrame(tables.read(name, self.folder / f"{name}.parquet").to_pandas())

    @cached_property
    def _published(self) -> dict[str, pd.DataFrame]:
        names = (
            "levels", "effects", "frontier", "remedies", "claims", "curvature", "deployed",
            "deployed_groups",
        )  # fmt: skip
        return published({name: self.frame(name) for name in names}, self.study)

    def table(self, name: str) -> str:
        """Set a table of :mod:`quantskew.analysis.published`, without columns of one value."""
        rows = self._published.get(name)
        if rows is None:
            return "*Nothing in this study.*\n"
        places = rows.columns.intersection(["dataset", "model", "attribute"])
        idle = [column for column in places if len(rows[column].unique()) == 1]
        if not self.judged:
            idle += [c for c in rows if (rows[c].isna() | (rows[c] == UNDEFINED)).all()]
        return markdown(rows.drop(columns=idle))

    def figure(self, name: str) -> str:
        """Show a figure, what it shows for those who do not see it, and how it is to be read."""
        figure = FIGURES[name]
        shown = f"![{figure.alternative}]({self.folder.name}/{name}.svg)"
        return f"{shown}\n\n*{figure.title}. {figure.caption}*"

    def answer(self) -> str:
        """Say what was found of each network, in short."""
        levels = first_groupings(self.frame("levels"), self.study)
        trained = [n for n, m in self.study.methods.items() if m["training"]["kind"] == "qat"][:1]
        lines = []
        for (dataset, model), rows in levels[levels["method"] == BASELINE].groupby(
            ["dataset", "model"]
        ):
            groups = rows[(rows["metric"] == "accuracy") & rows["counted"]]
            worst = groups.loc[groups["value"].idxmin()]
            group = escape_markdown(worst["group"])
            overall, spread = (rows[rows["metric"] == m].iloc[0] for m in ("overall", "fvo"))
            lines.append(
                f"At fp32 {model} answers {_share(overall['value'])} % of {dataset} rightly, and "
                f"{_share(worst['value'])} % of {group}. FVO is {_share(spread['value'])} points; "
                f"chance alone would show up to {_share(spread['chance_upper'])}."
            )
            lines += [
                f"`{method}` changes FVO, in points against fp32: {text}."
                for method in (self.plain, *trained)
                if (text := self.change(method, reference=BASELINE, at=(dataset, model)))
            ]
            if not self.judged:
                continue
            best = self._best_remedies(dataset, model)
            helped = "; ".join(
                f"{width_name(row.bits)} `{row.method}` {_points(row.worst_group_change)}"
                for row in best.itertuples()
            )
            lines.append(
                f"Most help for the worst group, in points over `{self.plain}`: {helped}."
                if helped
                else f"No method is detectably better than `{self.plain}` for the worst group."
            )
        return "".join(f"- {text}\n" for text in lines)

    def advice(self) -> str:
        """Say what helps at which cost, what to do, and how sure that is."""
        lines = [
            f"{width_name(row.bits)}: `{row.method}` changes the worst group by "
            f"{_points(row.worst_group_change)} "
            f"{_limits(row.worst_group_low, row.worst_group_high)} points over `{self.plain}` and "
            f"overall accuracy by {_points(row.overall_change)}, for {row.training:.2f} times the "
            "training of fp32."
            for place, _ in self.frame("remedies").groupby(["dataset", "model"])
            for row in self._best_remedies(*place).itertuples()
        ]
        frames = {name: self.frame(name) for name in ("deployed", "deployed_groups")}
        files = shipped(frames, self.study)
        for text in recommendations(self.frame("frontier"), self.study, files):
            lines.append(escape_markdown(text))
        lines.append(escape_markdown(of_chance(self.study)))
        return "".join(map(_sentences, lines))

    def _best_remedies(self, dataset: str, model: str) -> pd.DataFrame:
        """Find, from wide to narrow, the method that helps the worst group most for sure."""
        rows = side_by_side(self.frame("remedies"), ["overall", "worst_group"])
        rows = rows[(rows["dataset"] == dataset) & (rows["model"] == model)]
        better = rows[rows["worst_group_verdict"] == "better"]
        return better.loc[better.groupby("bits")["worst_group_change"].idxmax()][::-1]

    def ships(self) -> str:
        """Say of each int8 file who pays most, and whether any int8 variant meets the target."""
        rows = first_groupings(self.frame("deployed_groups"), self.study)
        rows = rows[rows["bits"] < FULL_PRECISION]
        target = self.study.targets.worst_group_loss
        lines = []
        for (dataset, model, method), part in rows.groupby(["dataset", "model", "method"]):
            most = part.loc[(part["accuracy"] - part["fp32"]).idxmin()]
            bound, group = part["bound"].max(), escape_markdown(most["group"])
            lines.append(
                f"The file `{method}` of {model} on {dataset}: {group} pays most, "
                f"{_share(most['fp32'])} to {_share(most['accuracy'])} % of {most['n']:,} images "
                f"({most['lost']} lost, {most['gained']} gained); certified for every group is a "
                f"loss of at most {_share(bound)} points, {_meets(bound, target)}."
            )
        placed = self.frame("frontier").dropna(subset="loss_bound")
        for (dataset, model), part in placed[placed["bits"] == 8].groupby(["dataset", "model"]):
            best = part.loc[part["loss_bound"].idxmin()]
            lines.append(
                f"Of int8 simulated (weights alone), {model} on {dataset}: the smallest certified "
                f"loss is that of `{best['method']}`, {_share(best['loss_bound'])} points, "
                f"{_meets(best['loss_bound'], target)}."
            )
        return "".join(f"- {text}\n" for text in lines)

    def certified(self) -> str:
        """Say how many int8 files keep every group within the target, and how near the best is."""
        rows = first_groupings(self.frame("deployed_groups"), self.study)
        rows = rows[rows["bits"] < FULL_PRECISION]
        bounds = rows.groupby(["dataset", "model", "method"])["bound"].max()
        target = self.study.targets.worst_group_loss
        dataset, model, method = bounds.idxmin()
        return (
            f"Of {len(bounds)} int8 files {(bounds <= target).sum()} can be certified to cost no "
            f"group more than {_share(target)} points of accuracy; the lowest bound is "
            f"{_share(bounds.min())} points (`{method}` of {model} on {dataset}), from groups of "
            f"{rows['n'].min():,} to {rows['n'].max():,} test images."
        )

    def worst(self) -> str:
        """Set the worst group of each int8 file."""
        rows = self._published["shipped"]
        place = ["dataset", "model", "method", "seed"]
        return markdown(rows.loc[rows.groupby(place)["file, %"].idxmin()].drop(columns="seed"))

    def undertrained(self, least: float) -> str:
        """Warn of fp32 files whose accuracy is less than a share of 1."""
        rows = self.frame("deployed")
        weak = rows[(rows["bits"] == FULL_PRECISION) & (rows["accuracy"] < least)]
        return ", ".join(
            f"{row.model} on {row.dataset} ({_share(row.accuracy)} %)" for row in weak.itertuples()
        )

    def took(self) -> str:
        """Say how long the study took and how much memory."""
        stages = self.provenance["stages"]
        minutes = sum(stage["seconds"] for stage in stages) / 60
        most = max(stage["peak_bytes"] for stage in stages) / 1e9
        return f"{minutes:.0f} min on {self.provenance['device']}, {most:.1f} GB at the peak"

    def claim(self, name: str) -> str:
        """Say how a declared claim came out: of all networks and widths, and of each tested."""
        rows = self.frame("claims")
        rows = rows[rows["claim"] == name]
        if rows.empty:
            raise KeyError(f"{self.folder.name}: there is no claim {name!r}")
        places = ["model", "width"] if len(self.study.models) > 1 else ["width"]
        lines: dict[str, list[str]] = {}  # what is said, and of which tests it is said alike
        rows = rows.sort_values("width", key=lambda w: w.map(_order), kind="stable")
        for _, row in rows.iterrows():
            where = " ".join(row[place] for place in places if row[place] != ALL)
            if row["verdict"] == "not testable":
                said = f"**not testable** ({row['missing']})"
                lines.setdefault(said, []).append(f"{where} {_estimate(row)}".strip())
            else:
                lines[f"{where}: {_verdict(row)}" if where else self._of_all(row)] = []
        return "; ".join(
            said + (f": {', '.join(tests)}" if any(tests) else "") for said, tests in lines.items()
        )

    def _of_all(self, row: pd.Series) -> str:
        models, seeds = len(self.study.models), len(self.study.seeds)
        networks = "one network" if models == 1 else f"each of {models} networks"
        of = f" of {networks}" if row["units"] == models * seeds else ""
        return f"{row['estimand']} ({row['compared']}), {seeds} seeds{of}: {_verdict(row)}"

    def short(self, name: str, width: str = ALL) -> str:
        """Say how a claim came out in a few words."""
        rows = self.frame("claims")
        row = rows[(rows["claim"] == name) & (rows["width"] == width)].iloc[0]
        shown = "" if pd.isna(row["estimate"]) else f" ({_points(row['estimate'])} points)"
        return f"**{row['verdict']}**{shown}"

    def tally(self) -> str:
        """Count the verdicts of the claims, each on all its networks and widths together."""
        rows = self.frame("claims")
        counts = rows[rows["width"] == ALL]["verdict"].value_counts()
        return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())

    def decided(self, *names: str) -> str:
        """Set claims with all that their verdicts rest on, at each width too.

        ``could show`` is the difference from the boundary that networks with this error would show
        with a chance of 80 %, before any adjustment.
        """
        rows = self.frame("claims")
        rows = rows.sort_values("width", key=lambda w: w.map(_order), kind="stable")
        rows = rows.set_index("claim").loc[[*names]].reset_index()
        rows = rows[(rows["missing"] == "") | (rows["width"] == ALL)]
        shown = pd.DataFrame(
            {
                "claim": rows["text"],
                "compared": rows["compared"].where(rows["width"] == ALL, rows["width"]),
                "estimate [limits], points": [
                    "" if pd.isna(row.low) else f"{_points(row.estimate)} "
                    f"{_limits(row.low, row.high)}"
                    for row in rows.itertuples()
                ],
                "boundary": [
                    "" if pd.isna(value) else _points(value, "z.1f") for value in rows["boundary"]
                ],
                "p": rows["p_holm"].map(lambda p: "" if pd.isna(p) else _p(p).removeprefix("= ")),
                "seeds": rows["units"].where(rows["units"] > 0, ""),
                "could show": [self._could_show(row) for row in rows.itertuples()],
                "verdict": np.where(rows["missing"] == "", "**" + rows["verdict"] + "**",
                                    "not testable: " + rows["missing"]),
            }
        )  # fmt: skip
        shown["claim"] = shown["claim"].where(~shown["claim"].duplicated(), "")
        return _as_written(shown)

    def _could_show(self, row: Any) -> str:
        if pd.isna(row.low):
            return ""
        degrees = row.units - 1
        critical = student.ppf(1 - self.study.statistics.alpha / 2, degrees)
        away = brentq(lambda x: nct.sf(critical, degrees, x) - POWER, 0, 100)
        return _points((row.high - row.low) / 2 / critical * away, ".1f")

    def seed_sd(self, method: str, bits: int, metric: str = "worst_group") -> float:
        """Return the deviation between seeds of a change against plain of the same width."""
        rows = first_groupings(self.frame("effects"), self.study)
        key = {"method": method, "bits": bits, "metric": metric, "reference": self.plain}
        for column, value in key.items():
            rows = rows[rows[column] == value]
        return float(rows["seed_sd"].iloc[0])

    def smallest(self, seed_sd: float) -> str:
        """Say which difference as many seeds as here would show, in points."""
        seeds = len(self.study.seeds)
        least = next(s for s in np.arange(1, 1000) / 1000 if seeds_to_decide(s, seed_sd) <= seeds)
        return _points(float(least), ".1f")

    def _judged(self, by: str | None = None, against: str = "ptq") -> pd.DataFrame:
        """Return the kept entries of the first data set and model; by its first grouping."""
        rows = pd.read_parquet(self.folder / "answers/entries.parquet")
        by = by or self.study.groups_of(self.study.datasets[0])[0]
        return rows[(rows["by"] == by) & (rows["against"] == against)]

    def entries(self, *methods: str, by: str | None = None) -> str:
        """List entries, judged from the published answers; free remedies are marked."""
        if not (self.folder / "answers/entries.parquet").exists():
            return "*No answers are published.*\n"
        rows = self._judged(by)
        rows = rows[rows["method"].isin(methods)] if methods else rows
        listed = runpy.run_path(str(HERE / "entries.py"))["listed"](rows)
        free = listed["entry"].isin(self.study.free_remedies())
        listed.insert(2, "free", np.where(free, "free", ""))
        return markdown(listed)

    def pairs(self, *networks: str) -> str:
        """Say what ``quantskew compare`` says of networks of the first seed, against their fp32."""
        where = self.folder / "answers" / self.study.datasets[0] / self.study.models[0]
        if not where.is_dir():
            return "*No answers are published.*\n"
        seed = self.study.seeds[0]
        before = where / f"{BASELINE}-{FULL_PRECISION}bit-seed{seed}.parquet"
        found = (compare_answers(before, where / f"{n}-seed{seed}.parquet") for n in networks)
        return "".join(f"- {escape_markdown(one.decisions[0].sentence)}\n" for one in found)

    def columns(self, bits: int) -> str:
        """Set what policies do for the worst group, each against uniform widths so trained."""
        if not (self.folder / "answers/entries.parquet").exists():
            return "*No answers are published.*\n"
        methods = self.study.all_methods()
        policies = [name for name, m in methods.items() if m["policy"]["kind"] != "uniform"]
        bare = [name for name in policies if not self.study.retrained(name)]
        cells: dict[str, dict[str, str]] = {name: {} for name in ("uniform", *bare)}
        for title, (ending, uniform) in COLUMNS.items():
            rows = self._judged(against=uniform).set_index(["bits", "metric", "method"])
            for policy, of in cells.items():
                place = (bits, "worst_group", uniform if policy == "uniform" else policy + ending)
                if place in rows.index:
                    row = rows.loc[place]
                    change = f", {_points(row['change'])} {_limits(row['low'], row['high'])} "
                    change += str(row["verdict"])
                    of[title] = f"{_share(row['value'])} %" + change * (row["reference"] == uniform)
        lines = [{"widths": policy} | of for policy, of in cells.items() if of]
        rows = pd.DataFrame(lines, columns=["widths", *COLUMNS]).astype(object)
        return markdown(rows.fillna("not run"))

    def change(
        self,
        method: str,
        metric: str = "fvo",
        reference: str | None = None,
        at: tuple[str, str] | None = None,
    ) -> str:
        """Say how a method changes a metric, paired with a reference: plain of the same width.

        Of a data set and model, if ``at`` names them; else of all.
        """
        reference = reference or self.plain
        rows = first_groupings(self.frame("effects"), self.study)
        rows = rows[
            (rows["method"] == method)
            & (rows["metric"] == metric)
            & (rows["reference"] == reference)
        ]
        if at:
            rows = rows[(rows["dataset"] == at[0]) & (rows["model"] == at[1])]
        lines = [
            f"{row.width}: {_points(row.change)}"
            + (f" {_limits(row.low, row.high)}, **{row.verdict}**" if self.judged else "")
            for row in rows.itertuples()
        ]
        return "; ".join(lines) or "not in this study"

    def extremes(self, column: str, *, table: str = "groups", largest: str, smallest: str) -> str:
        """Count the networks in which the claimed groups have the largest and smallest values."""
        rows = first_groupings(self.frame(table), self.study)
        rows = rows[(rows["method"] == self.plain) & rows[column].notna()]
        lines = []
        for width, part in rows.groupby("width", sort=False):
            wide = part.pivot(index="seed", columns="group", values=column)
            most, least = wide.idxmax(axis=1), wide.idxmin(axis=1)
            lines.append(
                f"{width}: {largest} largest in {(most == largest).sum()}, {smallest} smallest in "
                f"{(least == smallest).sum()} of {len(wide)} networks"
            )
        return "; ".join(lines) or "not in this study"

    def parity(self) -> str:
        """Set how plain quantization changes the metrics that tell labels and groups apart."""
        return "".join(
            f"- {name.replace('_', ' ')}: {self.change(self.plain, f'{name}_worst', BASELINE)}\n"
            for name in PARITY
        )

    def best(self, bits: int) -> str:
        """Name the variants of a width with the highest accuracy and the lowest FVO."""
        rows = self.frame("frontier")
        rows = rows[rows["bits"] == bits]
        high, low = rows.loc[rows["accuracy"].idxmax()], rows.loc[rows["fvo"].idxmin()]
        return (
            f"highest accuracy: {high['method']} ({_points(high['accuracy'], '.1f')} %); "
            f"lowest FVO: {low['method']} ({_points(low['fvo'], '.1f')} points)"
        )

    def weights(self) -> str:
        """Set how far the weights move under plain quantization, and how many become zero."""
        rows = self.frame("layers")
        rows = rows[rows["method"] == self.plain]
        rows = rows.assign(change=rows["absolute_change"] / rows["weights"])
        means = rows.groupby("bits")[["change", "sparsity"]].mean().sort_index(ascending=False)
        return "; ".join(
            f"{width_name(row.Index)}: mean change {row.change:.2g}, {row.sparsity:.1%} zeros"
            for row in means.itertuples()
        )

    def gap(self) -> str:
        """Set FVO by width beside the band of chance."""
        rows = first_groupings(self.frame("levels"), self.study)
        rows = rows[(rows["metric"] == "fvo") & rows["method"].isin([BASELINE, "fp16", self.plain])]
        rows = rows.sort_values("bits", ascending=False)
        shown = {"width": rows["width"], "FVO": rows["value"].map(_share)}
        if self.judged:
            shown["95 % limits"] = [
                _limits(*pair, ".1f") for pair in zip(rows["low"], rows["high"], strict=True)
            ]
        shown |= {
            "seed sd": rows["seed_sd"].map(_share),
            "by chance alone, mean": rows["chance_mean"].map(_share),
            "by chance alone, 95 %": rows["chance_upper"].map(_share),
            "p of chance": rows["p_chance"].map("{:.3f}".format),
            "debiased": rows["debiased"].map(_share),
        }
        return markdown(pd.DataFrame(shown))

    @cached_property
    def _timed(self) -> dict[str, dict[str, dict[str, Any]]]:
        found = json.loads((self.folder / "latency.json").read_text(encoding="utf-8"))
        return dict(found)

    def machine(self) -> dict[str, Any]:
        """Describe what the files were timed on."""
        (first, *_) = (timed for models in self._timed.values() for timed in models.values())
        return dict(first["machine"])

    def latency(self) -> str:
        """Set size and time of the int8 files beside those of fp32."""
        rows = []
        for dataset, models in self._timed.items():
            for model, timed in models.items():
                for file, batches in timed["latency"].items():
                    row = {"dataset": dataset, "model": model, "file": file}
                    seed = file.rsplit("-", 1)[1]
                    names = {"fp32 MB": f"fp32-32bit-{seed}.onnx", "int8 MB": f"{file}.onnx"}
                    row |= {name: timed["bytes"][of] / 1e6 for name, of in names.items()}
                    for batch, measured in batches.items():
                        ratio = measured["speedup"]
                        row[f"{batch}: fp32, ms"] = measured["fp32_ms"]["median"]
                        row[f"{batch}: int8, ms"] = measured["int8_ms"]["median"]
                        row[f"{batch}: ratio"] = (
                            f"{ratio['median']:.2f} [{ratio['low']:.2f}, {ratio['high']:.2f}]"
                        )
                    rows.append(row)
        return markdown(pd.DataFrame(rows))

    def footer(self) -> str:
        """Say what each stage took, how fast training is, and of which code and data this is.

        Tables that were converted after their study was run say so.
        """
        how = self.provenance
        stages = pd.DataFrame(how["stages"])
        rows = pd.DataFrame(
            {
                "stage": stages["command"].map(" ".join),
                "wall, s": stages["seconds"],
                "memory at the peak, MB": stages["peak_bytes"] / 1e6,
            }
        )
        speed = how["training"]
        threads = "one thread" if speed["threads"] == 1 else f"{speed['threads']} threads"
        trained = f"{speed['model']}, batches of {speed['batch_size']}, {threads}"
        versions = ", ".join(f"{name} {number}" for name, number in how["versions"].items())
        data = "\n".join(f"`{path}`: SHA-256 `{digest}`." for path, digest in how["data"].items())
        converted = _sentences(how.get("converted", ""))
        return f"""In all {self.took()}.

{markdown(rows)}
Wall time without the start of Python; memory of all processes of the stage together, looked at
every second or two. What lies in the store of finished cells is not done again and not counted.

Training ({trained}): {speed["ours_images_per_second"]} images a second, a plain loop of PyTorch
{speed["plain_images_per_second"]} on the same device in the same run, ratio {speed["ratio"]}
(`python benchmarks/training.py`).

Code `{how["revision"]}`, {versions}.
{data}

{converted}"""


def _as_written(rows: pd.DataFrame) -> str:
    """Set a table whose cells hold Markdown."""
    return markdown(rows).replace("\\*", "*").replace("\\<", "<")


def _sentences(text: str) -> str:
    """Set each sentence of a text as an item of a list."""
    return "".join(f"- {said}\n" for said in re.split(r"(?<=\.) (?=[A-Z])", text) if said)


def _meets(bound: float, target: float) -> str:
    return f"{'within' if bound <= target else 'above'} the target of {_share(target)}"


def _verdict(row: pd.Series) -> str:
    limits = f" {_limits(row['low'], row['high'])} points" if row["scale"] == "share" else ""
    return f"**{row['verdict']}**, {_estimate(row)}{limits}, p {_p(row['p_holm'])}"


def _estimate(row: pd.Series) -> str:
    """Set the estimate of a claim; nothing where there is none."""
    if pd.isna(row["estimate"]):
        return ""
    shares = row["scale"] == "share"
    return _points(row["estimate"]) if shares else f"ρ {_number(row['estimate'], '.2f')}"


def _points(share: float, form: str = "+.1f") -> str:
    return format(100 * share, form).replace("-", "−")


def _share(share: float) -> str:
    return _points(share, ".1f")


def _limits(low: float, high: float, form: str = "+.1f") -> str:
    return f"[{_points(low, form)}, {_points(high, form)}]"


def _number(value: float, form: str) -> str:
    return f"= {format(value, form)}".replace("-", "−") if value == value else "undefined"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else _number(value, ".3f")


def _order(width: str) -> float:
    """Sort all widths together first, then each from wide to narrow."""
    return -math.inf if width == ALL else -int(re.sub(r"\D", "", width))


def _results(name: str) -> Results | None:
    return Results(HERE / name) if (HERE / name).is_dir() else None


def main(name: str) -> None:
    """Fill a template.

    ``results("utkface")`` in it are the tables in that folder, or ``None`` where no study has been
    exported to it: the page then says nothing of that study.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.get_template(f"{name}.md.j2")
    write_text(HERE / f"{name}.md", template.render(results=_results, nothing=NOTHING))


if __name__ == "__main__":
    run(main)
