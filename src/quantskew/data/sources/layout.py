"""What the names of files say: which split they are of, and whether all parts are there."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from quantskew.data.sources.registry import SourceError

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
}
"""Names of splits, as the hub knows them, and what they are called here."""

_PART = re.compile(r"(.*)-(\d{5,})-of-(\d{5,})(?:-[0-9a-f]{16})?")  # the hub may append a hash


def splits_of(paths: Iterable[str]) -> dict[str, str]:
    """Find the published split of files, ``train``, ``validation`` or ``test``, in their paths.

    As on the hub, it is the name of a folder (``train/0.parquet``), or else a word of the name of
    the file that anything but letters sets off (``my-train-00000.parquet``). Paths are relative to
    the folder of the data set, and those that name no split are left out. One that names two is a
    ``SourceError``.

    Examples
    --------
    >>> splits_of(["data/train-00000-of-00001.parquet", "dev/0.parquet", "more.parquet"])
    {'data/train-00000-of-00001.parquet': 'train', 'dev/0.parquet': 'validation'}
    """
    found = {}
    for name in dict.fromkeys(paths):
        path = PurePosixPath(name)
        words = {word for part in path.parent.parts if (word := SPLITS.get(part.lower()))}
        if not words:
            parts = re.split(r"[^a-z]+", path.name.lower())
            words = {word for part in parts if (word := SPLITS.get(part))}
        if len(words) > 1:
            raise SourceError(f"{name} names two splits, {' and '.join(sorted(words))}; rename it")
        if words:
            found[name] = words.pop()
    return found


def lacking_parts(files: Iterable[Path]) -> str:
    """Say which parts are there of ``train-00001-of-00004.parquet`` if one is missing or double."""
    parts = defaultdict(list)
    for path in files:
        if part := _PART.fullmatch(path.stem):
            parts[path.parent / part[1]].append((int(part[2]), int(part[3])))
    for name, numbers in parts.items():
        total = numbers[0][1]
        if sorted(numbers) != [(number, total) for number in range(total)]:
            listed = ", ".join(f"{number:05d} of {of:05d}" for number, of in sorted(numbers)[:12])
            return f"{name} is not whole: there are {listed}; get each of the {total} parts once"
    return ""
