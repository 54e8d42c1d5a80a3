"""The report: one self-contained page that opens offline.

:func:`write` makes it of whatever tables there are: those of a whole study, or the ``levels``,
``effects`` and ``certificates`` of an audit or of a comparison of tables of answers. What a table
would show is missing where the table is.

=============  ====================================================================================
``decision``   the first screen: a sentence, and a verdict for each network, width and file
``sections``   what follows, made of the tables there are
``tables``     how tables are laid out
``words``      glossary, and what each method is
=============  ====================================================================================
"""

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd
import yaml

from quantskew.analysis.figures import FIGURES, Figure
from quantskew.analysis.report.decision import NOTHING, Decision, decisions, sentence
from quantskew.analysis.report.sections import facts_of, limits, rejects_by_group, sections
from quantskew.analysis.report.tables import UNBROKEN
from quantskew.analysis.report.words import GLOSSARY, TONES, anchor, explained
from quantskew.analysis.study import Study
from quantskew.files import write_text
from quantskew.names import UNKNOWN_WIDTH

__all__ = ["draw", "facts_of", "rejects_by_group", "render", "write"]


def write(
    path: Path, frames: Mapping[str, pd.DataFrame], study: Study, **extras: Mapping[str, Any]
) -> None:
    """Write the page as an HTML file; parameters are those of :func:`render`."""
    write_text(path, render(frames, study, **extras))


def render(
    frames: Mapping[str, pd.DataFrame],
    study: Study,
    *,
    drawn: Mapping[str, str] | None = None,
    parameters: Mapping[str, Any] | None = None,
    hashes: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
    pictures: Mapping[str, str] | None = None,
) -> str:
    """Fill the page.

    Parameters
    ----------
    frames
        Tables by name, as :data:`quantskew.TABLES` describes them: ``levels`` and ``effects``, and
        any others there are. ``rejects`` and ``facts`` are those of
        :mod:`quantskew.analysis.report.sections`.
    study
        What was compared. Where its reference method is not among the answers, every method is
        judged.
    drawn
        The SVG of figures by their names in :data:`FIGURES`; those for which there are tables are
        drawn where none are given.
    parameters
        All parameters, printed in full.
    hashes
        Content hash of each file behind the page, by its path.
    versions
        Version of each library, by its name.
    pictures
        Samples that flipped, as ``data:`` addresses by what is written below each; none by default.
    """
    frames = dict(frames)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("quantskew.analysis.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"explained": explained, "anchor": anchor, "unbroken": _unbroken}
    rows = decisions(frames, study)
    figures = _described(draw(frames, study) if drawn is None else drawn)
    flows = any(figure.section == "flow" for figure, _ in figures)
    page = environment.get_template("page.html.j2")
    return page.render(
        sentence=sentence(rows, frames, study),
        decisions=rows,
        helps=_helps_head(rows, study),
        others=[row for row in rows if len(row.counts + row.worst) > 2],  # several groupings
        sized=any(row.size for row in rows),
        single=len({row[:2] for row in rows}) == 1,
        tones=TONES,
        sections=[
            one for one in sections(frames, study) if one.tables or (flows and one.id == "why")
        ],
        figures=figures,
        limits=limits(frames, study),
        glossary=GLOSSARY,
        margin=100 * study.statistics.margin,
        target=100 * study.targets.worst_group_loss if "frontier" in frames else None,
        sure=100 * (1 - study.statistics.alpha),
        parameters=yaml.safe_dump(dict(parameters), sort_keys=False) if parameters else "",
        hashes=hashes or {},
        versions=versions or {},
        pictures=pictures or {},
        seeds=", ".join(map(str, study.seeds)),
        # tables of answers, of which the first stands where a study has its fp32 networks
        reference=study.models[0] if study.bits == (UNKNOWN_WIDTH,) else "",
    )


def _unbroken(text: str) -> str:
    """Hold numbers, their limits and units together where a cell wraps."""
    return re.sub(r"(?<=\d) (?=[\d%[kMp])|(?<=\d,) (?=[+−])", UNBROKEN, text)


def _helps_head(rows: Sequence[Decision], study: Study) -> str:
    """Head of the column of remedies, which says of which networks they are; empty without any."""
    if all(row.help in ("", NOTHING) for row in rows):
        return ""
    told = ["simulated"] * any("simulated" in row.note for row in rows)
    told += [f"mean of {len(study.seeds)} seeds"] * (len(study.seeds) > 1)
    told.append(f"points against {study.reference}")
    return f"what lifts the worst group most ({', '.join(told)})"


def draw(frames: Mapping[str, pd.DataFrame], study: Study) -> dict[str, str]:
    """Draw every figure for which there are tables with rows for it, as SVG by its name."""
    return {
        name: figure.drawing.svg(rows)
        for name, figure in FIGURES.items()
        if {*figure.tables} <= frames.keys() and len(rows := figure.rows(frames, study))
    }


def _described(drawn: Mapping[str, str]) -> list[tuple[Figure, markupsafe.Markup]]:
    """Give each SVG a title and a description, which screen readers speak."""
    found = []
    for name, figure in FIGURES.items():
        if name not in drawn:
            continue
        head, body = drawn[name].split(">", 1)
        spoken = re.findall(r"<text[^>]*>([^<]*)</text>", body) if figure.drawing.spoken else ()
        start = f'<svg role="img" aria-labelledby="{name}-title {name}-desc"'
        told = " ".join([html.escape(figure.alternative), *spoken])
        svg = (
            f'{head.replace("<svg", start, 1)}><title id="{name}-title">'
            f'{html.escape(figure.title)}</title><desc id="{name}-desc">{told}</desc>{body}'
        )
        found.append((figure, markupsafe.Markup(svg)))
    return found
