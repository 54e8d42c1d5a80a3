"""Files that are whole or not there: what stands at a path is the old content or the new."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a temporary path that becomes ``path`` when the block ends well, and is removed else."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, digits: int = 4) -> None:
    """Write JSON with sorted keys and floats rounded to ``digits``; NaN and inf become null."""
    text = json.dumps(_plain(content, digits), indent=1, sort_keys=True, allow_nan=False)
    write_text(path, text + "\n")


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, digits) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        # −0.0 would differ from 0.0 in the bytes of the file
        return round(value, digits) + 0.0 if abs(value) < float("inf") else None
    return value
