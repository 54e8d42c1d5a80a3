"""Files below a folder or inside an archive, read without ever extracting the archive."""

import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from quantskew.data.sources.registry import Image, SourceError

_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError)


@dataclass(frozen=True)
class Store:
    """A folder, a zip or a tar (plain or compressed) of images.

    Members of an archive are read by name into memory, so nothing an archive holds (links, absolute
    names, ``..``) can reach the disk, and no name leads out of a folder. A compressed tar is fast
    only in the order of its members.
    """

    where: Path

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:
        with tarfile.open(self.where) as archive:
            return {member.name: member for member in archive if member.isfile()}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the files, relative to the folder or archive; hidden ones are passed over."""
        try:
            if self.where.is_dir():
                found = (path for path in sorted(self.where.rglob("*")) if path.is_file())
                names = [path.relative_to(self.where).as_posix() for path in found]
            elif zipfile.is_zipfile(self.where):
                with zipfile.ZipFile(self.where) as archive:
                    names = [item.filename for item in archive.infolist() if not item.is_dir()]
            else:
                names = list(self._members)
        except (*_BROKEN, OSError) as error:
            raise SourceError(
                f"{self.where} is not a whole folder, zip or tar: {error}; get it anew"
            ) from None
        return tuple(name for name in names if not PurePosixPath(name).name.startswith("."))

    @cached_property
    def by_stem(self) -> dict[str, str]:
        """Names by the last part without its last suffix: ``a/b.x.jpg`` by ``b.x``."""
        return {PurePosixPath(name).stem: name for name in self.names}

    def read(self, names: Iterable[str | None]) -> Iterator[Image]:
        """Give files one after the other: their paths, or their bytes in an archive.

        A name that is not there gives a path that does not exist, which decoding then reports.
        """
        if self.where.is_dir():
            for name in names:
                path = PurePosixPath(name or "missing")
                yield self.where / ("missing" if path.is_absolute() or ".." in path.parts else path)
            return
        known = set(self.names)
        try:
            if zipfile.is_zipfile(self.where):
                with zipfile.ZipFile(self.where) as packed:
                    for name in names:
                        yield packed.read(name) if name in known else Path(name or "missing")
                return
            with tarfile.open(self.where) as archive:
                for name in names:
                    # by member, not by name, which would search the archive anew every time
                    file = archive.extractfile(self._members[name]) if name in known else None
                    yield file.read() if file else Path(name or "missing")
        except _BROKEN as error:
            raise SourceError(
                f"{self.where} is not a whole archive: {error}; get it anew"
            ) from None


def first_of(where: Path, *patterns: str) -> Path | None:
    """Return ``where`` if it is a file, else the first thing in it that fits the first pattern."""
    if where.is_file():
        return where
    return next((path for pattern in patterns for path in sorted(where.glob(pattern))), None)
