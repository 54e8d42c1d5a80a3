"""What follows the decision on the page, section by section, each made of the tables there are."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from quantskew.analysis.claims import in_four_words
from quantskew.analysis.remedies import CHANGE, side_by_side
from quantskew.analysis.report.tables import (
    UNBROKEN,
    Cell,
    Show,
    Table,
    change,
    change_with_limits,
    count,
    heat,
    of_seeds,
    p,
    price,
    share,
    share_with_limits,
    size_of,
    table,
    text,
    verdict,
)
from quantskew.analysis.report.words import methods_described
from quantskew.analysis.study import Study
from quantskew.analysis.typeset import about, number, points
from quantskew.analysis.views import at, first_groupings, judged, states
from quantskew.data.people import People
from quantskew.fairness.catalogue import CATALOGUE
from quantskew.fairness.verdicts import CANNOT_TELL, EQUIVALENT
from quantskew.names import BASELINE, FULL_PRECISION, WHOLE, state_name, width_name

Frames = Mapping[str, pd.DataFrame]
_WIDTH: dict[str, Show] = {"width": lambda row: Cell(width_name(row["bits"]), float(row["bits"]))}


class Section(NamedTuple):
    """A part of the page: what it says, its tables, and the figures of that section."""

    id: str
    title: str
    text: str
    tables: list[Table]
    figures: str = ""  # of which section of the figures


def sections(frames: Frames, study: Study) -> list[Section]:
    """All sections; one without tables has nothing to show, unless there are figures for it."""
    frames = {name: rows for name, rows in frames.items() if len(rows)}
    means = f": means of {len(study.seeds)} seeds, but for files" if len(study.seeds) > 1 else ""
    return [
        Section(
            "groups", "Every group",
            f"Change of the accuracy of each group against fp32, in points{means}. ▼ worse, "
            "▲ better, = equivalent (within the margin), ? cannot tell; * too few to be judged.",
            [*_groups(frames, study), *_scores(frames), *_slices(frames)], "results",
        ),
        Section(
            "remedies", "What helps, and what it costs",
            "Against plain quantization of the same width. Free remedies, which need no training, "
            "come first. A price of 0.5 is half the training of fp32, counted in images. ★ marks "
            "the cheapest of those nearest to the targets.",
            [*_remedies(frames, study)], "remedies",
        ),
        Section(
            "why", "Why: the impact flow",
            "Quantization moves the weights; that turns the logits, lowers the probability of the "
            "true class, raises the loss and its slope, and so costs accuracy. Figures show plain "
            "quantization and the first grouping.",
            [*_flow(frames)], "flow",
        ),
        Section(
            "claims", "Claims of the literature, tested on this study",
            "A claim says on which side a difference lies. The verdict is on the difference: worse "
            "or better (more accuracy, less FVO), equivalent (it surely lies within the margin), "
            "cannot tell (too few networks or samples); a rank correlation is neither. What it "
            "means for the claim stands beside it: supported or refuted, in these networks, at the "
            "study's error rate, adjusted by Holm within a family. Not testable: the study lacks "
            "what the claim needs. Where a claim allows for a loss, its verdict is that of the "
            "interval, which is not adjusted.",
            [*_claims(frames, study)],
        ),
        Section(
            "flips", "Which samples flipped",
            "Test samples whose most frequent answer over seeds is another after quantization.",
            [*_flips(frames, study)],
        ),
        Section("data", "Data", "", [*_data(frames)]),
        Section(
            "failures", "What could not be done", "Everything else is there.", [*_failures(frames)]
        ),
    ]  # fmt: skip


def _network(rows: pd.DataFrame) -> dict[str, Show]:
    """Columns that name the network, where there are several."""
    return {n: text(n) for n in ("dataset", "model") if n in rows and len(set(rows[n])) > 1}


def _place(rows: pd.DataFrame) -> dict[str, Show]:
    """Columns that say which network, method and width a row is about."""
    return {**_network(rows), "method": text("method"), **_WIDTH}


def _groups(frames: Frames, study: Study) -> Iterator[Table]:
    if "effects" not in frames:
        return
    effects, levels = frames["effects"], frames["levels"]
    own = judged(effects[effects["metric"] == "accuracy"], study)
    for dataset in study.datasets:
        for place, attribute in enumerate(study.groups_of(dataset)):
            for model in study.models:
                where = {"dataset": dataset, "model": model, "attribute": attribute}
                if len(shown := at(own, where)):
                    base = at(levels, where | {"metric": "accuracy", "method": BASELINE})
                    files = at(frames.get("deployed_groups", own[:0]), where)
                    title = f"{attribute}: {model}" + f" on {dataset}" * (dataset != "data")
                    yield _heat(title, shown, base, files, study, open=place == 0)
    levels = levels[levels["group"] == WHOLE]
    yield table(
        "Every metric of every grouping at fp32, and its change",
        (every := every_metric(frames["levels"], effects, study)),
        {
            **_network(every), "grouping": text("attribute"),
            "metric": lambda row: Cell(CATALOGUE[row["metric"]].title),
            "fp32": share(BASELINE),
            **{
                title: _metric_change(title)
                for name in every if name.endswith("_change")
                for title in [name.removesuffix("_change")]
            },
            "note": text("note"),
        },
        "Changes under the reference method. Cells of too few images are left out of parity, and "
        "the note counts them. All but overall accuracy, FVO and the worst group of the first "
        "grouping are exploratory: their verdicts hold the false discovery rate.",
    )  # fmt: skip
    fvo = levels[levels["metric"] == "fvo"]
    yield table(
        "FVO of every method, and what chance alone would show", fvo,
        {
            **_place(fvo), "grouping": text("attribute"),
            "FVO": share_with_limits("value", "low", "high"), "sd over seeds": change("seed_sd"),
            "chance, mean": share("chance_mean"), "chance, 95th": share("chance_upper"),
            "p of chance": p("p_chance"),
        },
        "A largest gap is never zero by chance: the column says what equal groups would show.",
    )  # fmt: skip
    told = effects["metric"].isin(("overall", "fvo", "worst_group", "accuracy"))
    rows = first_groupings(effects[told], study)
    counted = " or ".join(dict.fromkeys(map(study.counted_in, study.datasets)))
    yield table(
        f"Changes of every method, and how many {counted} or seeds would decide", rows,
        {
            **_place(rows), "against": text("reference"),
            "metric": lambda row: Cell(CATALOGUE[row["metric"]].title),
            "group": lambda row: Cell("" if row["group"] == WHOLE else str(row["group"])),
            "change": change_with_limits("change", "low", "high", "verdict"),
            "p, Holm": p("p_holm"), "false discovery rate": p("fdr"),
            "would decide": count("decide"), "about": text("about"),
        },
        f"First grouping. Intervals hold one by one. Would decide: {counted} of the group, or "
        "seeds where the verdict is about a method that trains.",
    )  # fmt: skip


def _scores(frames: Frames) -> Iterator[Table]:
    if "scores" in frames:
        rows = frames["scores"].dropna(subset="change")
        yield table(
            "Scores of each group against fp32: probabilities, and not only answers", rows,
            {
                **_place(rows),
                "grouping": text("attribute"), "group": text("group"), "score": text("score"),
                "n": count("n"), "before": count("before"), "after": count("after"),
                "change": count("change"), "low": count("low"), "high": count("high"),
                "false discovery rate": p("fdr"), "verdict": verdict("verdict"),
            },
            "From the logits, for these networks; in nats, or shares of 1. Two networks never "
            "agree in all, so a distance is worse only where it is surely above the margin.",
        )  # fmt: skip


def _slices(frames: Frames) -> Iterator[Table]:
    if "slices" in frames:
        rows = frames["slices"].sort_values("p_value", kind="stable")
        yield table(
            "Parts of the samples that nobody listed", rows,
            {
                **_place(rows), "slice": text("slice"),
                "n": count("n"), "before": share("before"), "after": share("after"),
                "change": change_with_limits("change", "low", "high", "verdict"),
                "all others": change("rest"), "false discovery rate": p("fdr"),
            },
            "Chosen on one half of the samples as losing more than the rest; the numbers are of "
            "the other half. False discovery rate: of the slices up to it at most that share, on "
            "average, loses no more than the rest.",
        )  # fmt: skip


def _metric_change(width: str) -> Show:
    def show(row: dict[str, Any]) -> Cell:
        value, word = row[f"{width}_change"], row[f"{width}_verdict"]
        return Cell("") if pd.isna(value) else Cell(f"{points(value)} {word}", float(value))

    return show


def _heat(
    title: str,
    effects: pd.DataFrame,
    base: pd.DataFrame,
    files: pd.DataFrame,
    study: Study,
    *,
    open: bool,
) -> Table:
    """Groups by networks and files: how accuracy changed, those that lost most first."""
    several = len(set(effects["method"])) > 1
    columns: dict[str, pd.DataFrame] = {}
    order = effects.sort_values("bits", ascending=False, kind="stable")
    for (method, bits), part in order.groupby(["method", "bits"], sort=False):
        state = state_name(method, bits)
        name = f"{method} {state}" if several and state != method else state
        columns[name] = part.set_index("group")[["change", "verdict"]]
    for method, part in files[files["bits"] < FULL_PRECISION].groupby("method", sort=False):
        change = (part["accuracy"] - part["fp32"]).groupby(part["group"]).mean()
        columns[of_seeds(f"file {method}", part, study)] = pd.DataFrame(
            {"change": change, "verdict": ""}
        )
    wide = pd.concat(columns, axis=1)
    wide.columns = [" ".join(pair) for pair in wide.columns]
    changes = wide[[f"{name} change" for name in columns]]
    rows = wide.assign(change=changes.min(axis=1)).join(base.set_index("group")[["n", "value"]])
    small = effects.loc[~effects["counted"].astype(bool), "group"]
    rows = rows.sort_values("change", kind="stable").rename_axis("group").reset_index()
    rows["group"] = rows["group"].astype(str) + rows["group"].isin(small).map(
        {True: " *", False: ""}
    )
    return table(
        title, rows,
        {
            "group": text("group"), "n": count("n"), "fp32": share("value"),
            **{name: heat(f"{name} change", f"{name} verdict") for name in columns},
        },
        open=open,
    )  # fmt: skip


def every_metric(levels: pd.DataFrame, effects: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Changes of every metric that compares groups, under the reference method.

    Returns
    -------
    pandas.DataFrame
        One row a data set, model, grouping and metric, in the order of the catalogue: the value at
        fp32, missing where ``levels`` has none, then the change and its verdict at every width (or
        in every table of answers), and
        the note of the level. A metric without a meaning for a grouping has no row in ``effects``
        and none here.
    """
    key = ["dataset", "model", "attribute", "metric"]
    effects = judged(effects[effects["group"] == WHOLE], study)
    start = levels[(levels["group"] == WHOLE) & (levels["method"] == BASELINE)].set_index(key)
    rows = effects[key].drop_duplicates().set_index(key)
    rows[BASELINE] = start["value"].reindex(rows.index)
    effects = effects.assign(state=states(effects))
    effects = effects.sort_values("bits", ascending=False, kind="stable")
    for name, part in effects.groupby("state", sort=False):
        own = part.set_index(key)
        rows[f"{name}_change"] = own["change"]
        rows[f"{name}_verdict"] = own["verdict"].reindex(rows.index, fill_value="")
    notes = start["note"] if "note" in start else pd.Series("", start.index, dtype=str)
    rows["note"] = notes.reindex(rows.index).fillna("")
    order = {name: place for place, name in enumerate(CATALOGUE)}
    rows = rows.reset_index().sort_values("metric", key=lambda names: names.map(order))
    return rows.sort_values(key[:3], kind="stable")


def _remedies(frames: Frames, study: Study) -> Iterator[Table]:
    if "remedies" not in frames:
        return
    rows = side_by_side(frames["remedies"], ["overall", "fvo", "worst_group"], bars=True)
    rows = rows.assign(name=rows["method"] + rows["cheapest"].map({True: " ★", False: ""}))
    order = ["dataset", "model", "bits", "free"]
    rows = rows.sort_values(order, ascending=[True, True, False, False], kind="stable")
    yield table(
        "Remedies by width", rows,
        {
            **_network(rows), **_WIDTH, "method": text("name"),
            "price": lambda row: Cell(", ".join(x.replace(" ", UNBROKEN) for x in price(row))),
            "accuracy": share("overall"), "worst group": share("worst_group"),
            "its change": change_with_limits(*(f"worst_group_{part}" for part in CHANGE)),
            "FVO": share("fvo"), "size": size_of("bytes"),
            "over the best free one":
                change_with_limits(*(f"worst_group_over_{part}" for part in CHANGE)),
        },
        open=True,
    )  # fmt: skip
    if about := methods_described(study):
        named = pd.DataFrame({"method": [*about], "what": [*about.values()]})
        yield table("What the methods are", named, {"method": text("method"), "what": text("what")})
    if "frontier" in frames:
        placed = frames["frontier"].sort_values("bytes")
        yield table(
            "Every variant against the targets", placed,
            {
                **_place(placed), "size": size_of("bytes"),
                "accuracy": share("accuracy"), "FVO": share("fvo"),
                "largest loss": change("loss"), "certified": change("loss_bound"),
                "off the target": change("excess"), "on the frontier": share("probability"),
            },
            "Simulated, but fp32. Certified: no group of any seed lost more; each variant alone, "
            "so the risk that one is certified wrongly grows with their number. On the frontier: "
            "share of redrawn test sets on which no other variant of the network is as good in "
            "accuracy, FVO and size, and better in one.",
        )  # fmt: skip
    if "deployed_groups" in frames:
        files = first_groupings(frames["deployed_groups"], study)
        yield table(
            "The files that ship: accuracy of each group as the runtime answers", files,
            {
                **_network(files), "file": text("method"), "seed": count("seed"),
                "group": text("group"), "n": count("n"), "fp32": share("fp32"),
                "file, right": share_with_limits("accuracy", "low", "high"),
                "simulated": share("pytorch"), "lost": count("lost"), "gained": count("gained"),
                "certified loss": share("bound"),
            },
        )  # fmt: skip
        held = frames["deployed"]
        yield table(
            "What the files that ship hold, in integers", held,
            {
                **_network(held), "file": text("method"), "seed": count("seed"),
                "size": size_of("bytes"), "layers": count("integer_layers"),
                "bytes of weights": share("integer_bytes"),
                "multiplications": share("integer_operations"),
                "answers as fp32": share("agreement_fp32"),
                "as simulated": share("agreement_pytorch"),
            },
            "Layers with integer weights, and their share of the bytes of all weights. A file of "
            "4-bit weights multiplies in floating point.",
        )  # fmt: skip


def _flow(frames: Frames) -> Iterator[Table]:
    if "mediation" in frames:
        rows = frames["mediation"].dropna(subset="total")
        yield table(
            "The accuracy lost, followed from step to step", rows,
            {
                **_network(rows), "width": text("width"), "step": text("step"),
                "next step": text("mediator"), "rows": count("rows"), "in total": count("total"),
                "next step held fixed": count("direct"),
                "through the next step": count("association_through"),
            },
            "Slopes on ranks, −1 to 1, of the accuracy that a group lost on a step of the flow. "
            "Association, not cause: all steps grow as the width falls.",
        )  # fmt: skip


def _claims(frames: Frames, study: Study) -> Iterator[Table]:
    if "claims" not in frames:
        return
    rows = in_four_words(frames["claims"], study.statistics)
    rows["decide"] = rows["decide"].map(about)
    order = {
        word: i
        for i, word in enumerate(("refuted", "supported", EQUIVALENT, CANNOT_TELL, "not testable"))
    }
    rows = rows.sort_values("verdict", key=lambda words: words.map(order), kind="stable")

    def estimate(row: dict[str, Any]) -> Cell:
        if row["scale"] == "share":
            return change_with_limits("estimate", "low", "high")(row)
        return count("estimate")(row)

    brief = (
        rows.groupby(["text", "difference", "verdict"], sort=False)
        .agg(where=("width", lambda widths: ", ".join(dict.fromkeys(map(str, widths)))),
             n=("width", "size"))
        .reset_index()
    )  # fmt: skip
    yield table(
        "In short", brief,
        {"claim": text("text"), "verdict": verdict("difference"),
         "the claim is": verdict("verdict"), "widths": text("where"), "tests": count("n")},
        open=True,
    )  # fmt: skip
    yield table(
        "Every test", rows,
        {
            **_network(rows), "claim": text("text"), "width": text("width"),
            "verdict": verdict("difference"), "the claim is": verdict("verdict"),
            "estimate": estimate, "compared": text("compared"), "networks": count("units"),
            "networks that would do": text("decide"), "d": count("d"), "p, Holm": p("p_holm"),
            "what is missing": text("missing"),
        },
        "Estimates are points with limits for other seeds and test samples, or rank correlations. "
        "d is Cohen's.",
    )  # fmt: skip


def _flips(frames: Frames, study: Study) -> Iterator[Table]:
    if "exemplars" not in frames:
        return
    rows = frames["exemplars"]
    rows = rows[rows["method"] == study.reference]
    if rows.empty:
        return
    rows = rows.sort_values("flips", ascending=False, kind="stable")
    counts = (
        rows.assign(lost=rows["label"] == rows["before"])
        .groupby(["dataset", "model", "bits"], as_index=False)
        .agg(n=("id", "size"), lost=("lost", "sum"))
    )
    counts = counts.sort_values(["dataset", "model", "bits"], ascending=[True, True, False])
    yield table(
        f"How many, under {study.reference}", counts,
        {**_network(counts), **_WIDTH, "flipped": count("n"), "right before": count("lost")},
        open=True,
    )  # fmt: skip
    yield table(
        "Each of them", rows,
        {
            **_network(rows), **_WIDTH, "sample": text("id"), "class": text("label"),
            "before": text("before"), "after": text("after"), "seeds changed": count("flips"),
        },
        "Classes by their numbers. Most seeds changed first.",
    )  # fmt: skip


def rejects_by_group(
    rejects: pd.DataFrame, people: People[Any], study: Study, dataset: str
) -> pd.DataFrame:
    """Count what was wrong with the files of a data set, by reason and by group.

    Parameters
    ----------
    rejects
        Rows of the table of that name.
    people
        The samples that were kept, whose groups are known; one with the pixels of a sample that was
        kept is counted to the group of that one.
    """
    attribute = study.groups_of(dataset)[0]
    column = attribute if attribute in people.attributes else "label"
    groups = dict(zip(people.ids, people.attributes[column].astype(str), strict=True))
    twin = rejects["reason"].str.extract(r"^same pixels as (.*?)(?:; these disagree|$)")[0]
    group = rejects["id"].map(groups).fillna(twin.map(groups)).fillna("not known")
    reason = rejects["reason"].where(twin.isna(), "same pixels as another sample")
    reason = reason.where(
        ~rejects["reason"].str.contains("; these disagree"), "same pixels, other label or attribute"
    )
    return (
        rejects.assign(dataset=dataset, grouping=column, group=group, reason=reason)
        .groupby(["dataset", "grouping", "group", "reason", "kept"], as_index=False)
        .agg(n=("id", "size"))
    )


def facts_of(people: People[Any], study: Study, dataset: str) -> pd.DataFrame:
    """Say what the samples of a data set are: how many, whose, and what was found among them."""
    notes, unit = people.metadata, study.unit_of(dataset)
    twins = notes["duplicates"]
    found = {
        "test samples": number((people.split == "test").sum()),
        "training samples": number((people.split == "train").sum()),
        "classes": number(len(people.classes)),
        "unit of judgement": f"{unit}, {number(people.attributes[unit].nunique())} of them"
        if unit else "each image is its own",
        "samples with the pixels of another": f"{number(twins['rows'])}, policy: {twins['policy']}",
        "of these with another label or attribute": number(twins["conflicting"]),
        "licence": str(notes["licence"]),
    }  # fmt: skip
    return pd.DataFrame({"dataset": dataset, "fact": [*found], "value": [*found.values()]})


def _data(frames: Frames) -> Iterator[Table]:
    if "facts" in frames:
        rows = frames["facts"]
        yield table(
            "What was judged", rows,
            {"data set": text("dataset"), "fact": text("fact"), "value": text("value")}, open=True,
        )  # fmt: skip
    if "rejects" in frames:
        rows = frames["rejects"].sort_values("n", ascending=False, kind="stable")
        yield table(
            "Files and rows with a defect", rows,
            {
                **_network(rows), "group": text("group"), "what is wrong": text("reason"),
                "number": count("n"),
                "in the data": lambda row: Cell("kept" if row["kept"] else "left out"),
            },
            "A group is not known where the file could not be read.", open=True,
        )  # fmt: skip


def _failures(frames: Frames) -> Iterator[Table]:
    if "failures" in frames:
        rows = frames["failures"]
        yield table(
            "By network and step", rows,
            {
                **_place(rows), "seed": count("seed"),
                "step": text("step"), "reason": text("reason"),
            },
            open=True,
        )  # fmt: skip


def limits(frames: Frames, study: Study) -> list[str]:
    """Say what the data of this run cannot tell."""
    sentences = [
        "Where the groups are the classes themselves, demographic parity, equalized odds and "
        "disparate impact have no meaning and are left out; the gap of recall is FVO.",
    ]
    if study.all_methods():
        sentences.append(
            "Simulated widths store packed weights and compute in floating point: what ships is "
            "judged by the files alone."
        )
    if not study.statistics.parity:
        sentences.append("Parity was left out of this study (statistics.parity: false).")
    levels = frames["levels"]
    hollow = levels.loc[levels["collapsed"].fillna(False).astype(bool), ["model", "method", "bits"]]
    if len(hollow := hollow.drop_duplicates()):
        names = ", ".join(
            f"{row.model} {row.method} {width_name(row.bits)}" for row in hollow.itertuples()
        )
        sentences.append(
            f"These networks answer nearly one class, so their parity means nothing: {names}."
        )
    small = levels[(levels["metric"] == "accuracy") & ~levels["counted"].astype(bool)]
    for dataset, part in small.groupby("dataset", sort=False):
        counted_in = study.counted_in(str(dataset), "test samples")
        names = (part["attribute"] + " " + part["group"].astype(str)).unique()
        some = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
        sentences.append(
            f"Groups with fewer than {study.groups.minimum} {counted_in} enter no maximum: {some}."
        )
    return sentences
