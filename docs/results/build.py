"""Write a page of results from its kept tables: ``python docs/results/build.py utkface``.

Run at the root of the project. ``utkface.md.j2`` and the folders that it names become
``utkface.md``. The text of the template says what was done and what others claim; every number and
every verdict is taken from a table.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from quantskew import params, tables
from quantskew.analysis.effects import plain_method
from quantskew.analysis.published import markdown, published
from quantskew.analysis.report import FIGURES, FLOW
from quantskew.analysis.views import first_groupings, width_name
from quantskew.command import run
from quantskew.files import write_text
from quantskew.variants import BASELINE

HERE = Path("docs/results")


class Results:
    """The kept tables of a study, and what a page says of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.study = params.load(folder / "params.yaml")
        self.provenance = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        self.plain = plain_method(self.study)

    def frame(self, name: str) -> pd.DataFrame:
        """Read a table."""
        return tables.read(name, self.folder / f"{name}.parquet").to_pandas()

    @cached_property
    def _published(self) -> dict[str, pd.DataFrame]:
        names = ("levels", "effects", "frontier", "remedies", "hypotheses")
        names += ("curvature", "deployed", "deployed_groups")
        return published({name: self.frame(name) for name in names}, self.study)

    def table(self, name: str) -> str:
        """Set a table of :mod:`quantskew.analysis.published`, without columns of one value."""
        rows = self._published.get(name)
        if rows is None:
            return "*Nothing in this study.*\n"
        places = rows.columns.intersection(["dataset", "model", "attribute"])
        return markdown(rows.drop(columns=[c for c in places if len(rows[c].unique()) == 1]))

    def figure(self, name: str) -> str:
        """Show a drawing, with what it shows for those who do not see it."""
        drawing = (FIGURES | FLOW)[name]
        return f"![{drawing.alternative}]({self.folder.name}/{name}.svg)"

    def hypothesis(self, name: str) -> str:
        """Say how a declared claim came out."""
        row = self.frame("hypotheses").set_index("hypothesis").loc[name]
        if row["verdict"] == "not testable":
            return f"**not testable**: {row['missing']}"
        numbers = f"{_points(row['estimate'])} {_limits(row['low'], row['high'])}"
        return (
            f"**{row['verdict']}**: {row['estimand']} ({row['compared']}): {numbers} points, "
            f"{row['units']} networks, p {_p(row['p_holm'])}"
        )

    def claim(self, text: str) -> str:
        """Say how a claim of the impact flow came out, width by width."""
        rows = self.frame("claims")
        rows = rows[rows["claim"] == text]
        if rows.empty:
            raise KeyError(f"{self.folder.name}: there is no claim {text!r}")
        return "; ".join(
            f"{row.width}: **{row.verdict}** (ρ {_number(row.spearman, '.2f')}, p {_p(row.p_holm)})"
            for row in rows.sort_values("width", key=lambda w: w.map(_order)).itertuples()
        )

    def change(self, method: str, metric: str = "fvo", reference: str | None = None) -> str:
        """Say how a method changes a metric, paired with a reference of the same width."""
        reference = reference or self.plain
        rows = first_groupings(self.frame("effects"), self.study)
        rows = rows[
            (rows["method"] == method)
            & (rows["metric"] == metric)
            & (rows["reference"] == reference)
        ]
        told = [
            f"{row.width}: {_points(row.change)} {_limits(row.low, row.high)}, **{row.verdict}**"
            for row in rows.itertuples()
        ]
        return "; ".join(told) or "not in this study"

    def extremes(self, column: str, *, table: str = "groups", largest: str, smallest: str) -> str:
        """Count the networks in which the claimed groups have the largest and smallest values."""
        rows = first_groupings(self.frame(table), self.study)
        rows = rows[(rows["method"] == self.plain) & rows[column].notna()]
        told = []
        for width, part in rows.groupby("width", sort=False):
            wide = part.pivot(index="seed", columns="group", values=column)
            most, least = wide.idxmax(axis=1), wide.idxmin(axis=1)
            told.append(
                f"{width}: {largest} largest in {(most == largest).sum()}, {smallest} smallest in "
                f"{(least == smallest).sum()} of {len(wide)} networks"
            )
        return "; ".join(told) or "not in this study"

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
        """Say what each stage took, how fast training is, and of which code and data this is."""
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
        return f"""{markdown(rows)}
Wall time without the start of Python; memory of all processes of the stage together, looked at
every second or two. What lies in the store of finished cells is not done again and not counted.

Training ({trained}): {speed["ours_images_per_second"]} images a second, a plain loop of PyTorch
{speed["plain_images_per_second"]} on the same device in the same run, ratio {speed["ratio"]}
(`python benchmarks/training.py`).

Code `{how["revision"]}`, {versions}.
{data}
"""


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


def _order(width: str) -> int:
    return -int(width[3:] if width.startswith("int") else width[2:]) if width != "all" else 0


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
    write_text(HERE / f"{name}.md", template.render(results=_results))


if __name__ == "__main__":
    run(main)
