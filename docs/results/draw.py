"""Draw a figure that no page shows: ``python docs/results/draw.py utkface_gender trade_off``.

Run at the root of the project. Draws from the tables that are kept of a study, and writes the SVG
beside them.
"""

from pathlib import Path

from quantskew import params, tables
from quantskew.analysis.figures import FIGURES
from quantskew.engine.command import run
from quantskew.errors import UserError, close_names
from quantskew.files import write_text


def main(study: str, figure: str) -> None:
    """Draw a figure, unless a table that it needs is not kept."""
    folder = Path("docs/results", study)
    if figure not in FIGURES:
        raise UserError(
            f"no figure {figure!r}; there are {', '.join(FIGURES)}{close_names(figure, FIGURES)}"
        )
    drawn = FIGURES[figure]
    paths = {name: folder / f"{name}.parquet" for name in drawn.tables}
    missing = [str(path) for path in paths.values() if not path.exists()]
    if missing:
        raise UserError(f"{figure}: {', '.join(missing)} not kept; run the study to draw it")
    frames = {name: tables.read(name, path).to_pandas() for name, path in paths.items()}
    rows = drawn.rows(frames, params.load(folder / "params.yaml").judged())
    write_text(folder / f"{figure}.svg", drawn.drawing.svg(rows))


if __name__ == "__main__":
    run(main)
