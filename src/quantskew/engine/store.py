"""Location of the store of cells."""

import os
from pathlib import Path


def default_store() -> Path:
    """Folder of finished cells: ``$QUANTSKEW_CELLS``, or ``.cells`` where the study is run."""
    return Path(os.environ.get("QUANTSKEW_CELLS", ".cells"))
