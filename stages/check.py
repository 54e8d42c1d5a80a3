"""Say what the study could not do; fail if there is anything, after all else is done."""

from quantskew import tables
from quantskew.engine.command import run
from quantskew.errors import UserError
from quantskew.layout import ANALYSIS

AGAIN = "`dvc repro -f` tries these again, and keeps what is done"


def main() -> None:
    """Fail with one line for each step that failed."""
    failures = tables.read("failures", ANALYSIS / "failures.parquet").to_pandas()
    lines = [
        f"  {row.dataset} {row.model} {row.method} at {row.bits} bits, seed {row.seed}: "
        f"{row.step}: {row.reason.splitlines()[0]}"
        for row in failures.itertuples()
    ]
    if lines:
        count = f"{len(lines)} steps could not be done; all else is in plots/report.html:\n"
        raise UserError(count + "\n".join([*lines, AGAIN]))


if __name__ == "__main__":
    run(main)
