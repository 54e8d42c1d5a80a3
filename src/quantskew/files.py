"""Atomic writes, and names of files in UTF-8.

A file has either its old content or the complete new content.
"""

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def use_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, if the locale has another encoding.

    Libraries in C take the names of files in UTF-8, and texts hold signs such as − and →.
    """
    if sys.getfilesystemencoding() != "utf-8" and os.environ.get("PYTHONUTF8") != "1":
        arguments = [sys.executable, *sys.orig_argv[1:]]
        os.execve(sys.executable, arguments, {**os.environ, "PYTHONUTF8": "1"})


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file that replaces ``path`` if the block succeeds, else is removed."""
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
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any, digits: int = 4) -> None:
    """Write JSON atomically; see :func:`as_json_text`."""
    write_text(path, as_json_text(content, digits))


def as_json_text(content: Any, digits: int) -> str:
    """Lay out JSON with sorted keys and rounded floats; NaN and infinity become null."""
    text = json.dumps(_plain(content, digits), indent=1, sort_keys=True, allow_nan=False)
    return text + "\n"


def _plain(value: Any, digits: int) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item, digits) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, digits) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        # adding 0.0 turns −0.0 into 0.0, which would otherwise be written differently
        return round(value, digits) + 0.0 if abs(value) < float("inf") else None
    return value
