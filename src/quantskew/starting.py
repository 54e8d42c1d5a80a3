"""A study of one's own: the files that a folder needs for ``dvc repro``.

They are those of the study in this project's repository. ``setup.py`` puts copies of them into the
wheel, so that there is one source of them.
"""

from collections.abc import Iterator
from pathlib import Path

from quantskew.errors import UserError

FILES = (
    "params.yaml",
    "dvc.yaml",
    "stages/*.py",
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots/*.json",
    ".dvcignore",
    ".gitignore",
    "data/.gitignore",
)
"""Patterns of the files of a study, from the root of the repository."""
PACKAGED = "study"
"""Folder of the package that holds them in a wheel."""
_README = """\
# A study with quantskew

    pip install 'quantskew[study]' && git init    # once
    dvc repro                                     # runs every stage whose inputs changed

What is studied stands in `params.yaml`, whose comments are its manual; your own images are an entry
of `sources`. What was found is in `plots/report.html`, the numbers in `metrics/summary.json`, the
tables in `data/analysis`. `dvc exp run -S bits=2` tries a value, `dvc metrics diff` compares with
what is committed, `quantskew gate --help` judges a network by a policy, and `quantskew doctor` says
whether the installation is sound. Commit `dvc.lock`, `metrics` and `plots` with your changes.
"""


def study_files() -> Path:
    """Folder in which the files of a study lie: in the package, or the repository around it."""
    package = Path(__file__).parent
    packaged = package / PACKAGED
    return packaged if packaged.is_dir() else package.parents[1]


def listed(root: Path) -> Iterator[Path]:
    """Files of a study below a folder, relative to it; a pattern without any is a ``UserError``."""
    for pattern in FILES:
        found = sorted(root.glob(pattern))
        if not found:
            raise UserError(f"{root} has no {pattern}: the installation of quantskew is not whole")
        yield from (path.relative_to(root) for path in found)


def start(folder: Path) -> list[Path]:
    """Write the files of a study into a new or empty folder, and return their names.

    The folder is made if it is missing, and may be a Git repository without files. A ``UserError``
    says that it holds anything else, or cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as parent:
    ...     Path("params.yaml") in start(Path(parent, "mine"))
    True
    """
    root = study_files()
    texts = {name: (root / name).read_text(encoding="utf-8") for name in listed(root)}
    texts[Path("README.md")] = _README
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held = sorted(path.name for path in folder.iterdir() if path.name != ".git")
        if held:
            more = f" and {len(held) - 3} more" if len(held) > 3 else ""
            raise UserError(
                f"{folder} is not empty: it holds {', '.join(held[:3])}{more}; give a new folder"
            )
        for name, text in texts.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"no study can be written to {folder}: {error}") from None
    return list(texts)
