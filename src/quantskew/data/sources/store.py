"""Files below a folder or inside an archive, read without ever extracting the archive."""

import lzma
import os
import posixpath
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, Self

from quantskew.data.sources.registry import MOST_BYTES, Image, SourceError, UnusableError

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
_UNREADABLE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(RuntimeError, NotImplementedError),  # of zipfile: a password, an unknown compression
    KeyError,  # of tarfile: a hard link to what is not there
)
_MISSING = UnusableError("cannot be opened: No such file or directory")


class _Member(tarfile.TarInfo):
    """A member of a tar that does not take a damaged header for the end of the archive."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            while block := archive.fileobj.read(1 << 20):
                if block.strip(b"\0"):
                    raise tarfile.ReadError(f"data after an end at {archive.offset}") from None
            raise
        except tarfile.HeaderError as error:
            if archive.offset == 0:  # no tar at all, or a compressed one, which is tried next
                raise
            raise tarfile.ReadError(f"{error} at byte {archive.offset}") from None


@dataclass(frozen=True)
class Store:
    """A folder, a zip or a tar (plain or compressed) of images.

    Members of an archive are read by name into memory, so nothing an archive holds (links, absolute
    names, ``..``) can reach the disk, and no name leads out of a folder. A compressed tar is fast
    only in the order of its members.
    """

    where: Path

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except _UNREADABLE as error:
            raise SourceError(
                f"{self.where} cannot be read as a whole folder, zip or tar: {error}; get it anew"
            ) from None

    def _open(self) -> Any:
        if zipfile.is_zipfile(self.where):
            return zipfile.ZipFile(self.where)
        return tarfile.open(self.where, tarinfo=_Member)

    @cached_property
    def _members(self) -> dict[str, Any]:
        with self._whole():
            if self.where.is_dir():
                files = (path for path in sorted(self.where.rglob("*")) if not path.is_dir())
                return {path.relative_to(self.where).as_posix(): path for path in files}
            with self._open() as archive:
                if isinstance(archive, zipfile.ZipFile):
                    members = [(it.filename, it) for it in archive.infolist() if not it.is_dir()]
                else:
                    members = [(it.name, it) for it in archive if not it.isdir()]
        return {posixpath.normpath(name): member for name, member in members}

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the files, relative to the folder or archive; hidden ones are passed over."""
        return tuple(name for name in self._members if not PurePosixPath(name).name.startswith("."))

    @cached_property
    def by_stem(self) -> dict[str, str]:
        """Images by the last part of the name without its last suffix: ``a/b.x.jpg`` by ``b.x``."""
        found: dict[str, str] = {}
        for name in self.names:
            if name.lower().endswith(PICTURES):
                first = found.setdefault(PurePosixPath(name).stem, name)
                if first != name:
                    raise SourceError(
                        f"{self.where} has {first} and {name}; keep one of them there"
                    )
        return found

    def read(self, names: Iterable[Any]) -> Iterator[Image]:
        """Give files one after the other: their paths, or their bytes in an archive.

        What is no name, or not there, gives the error that decoding then reports.
        """
        if self.where.is_dir():
            yield from (below(self.where, name) for name in names)
            return
        with self._whole(), self._open() as archive:
            for name in names:
                member = self._members.get(posixpath.normpath(str(name)))
                if member is None:
                    yield _MISSING
                elif isinstance(member, zipfile.ZipInfo):
                    yield too_large(member.file_size) or archive.read(member)
                elif member.isfile() or member.islnk():
                    # by member, not by name, which would search the archive anew every time
                    yield too_large(member.size) or archive.extractfile(member).read()
                else:
                    yield UnusableError("cannot be opened: it is not a regular file")


def below(folder: Path, name: Any) -> Path | UnusableError:
    """Return the file of a name, relative or absolute, that must lie below a folder."""
    if not isinstance(name, str) or not name:
        return _MISSING
    path = Path(os.path.normpath(folder.absolute() / name))
    if not any(path.is_relative_to(root) for root in (folder.absolute(), folder.resolve())):
        return UnusableError(f"cannot be opened: it is not below {folder}")
    return path


def too_large(size: int) -> UnusableError | None:
    """Refuse to read a file that is larger than any image."""
    if size <= MOST_BYTES:
        return None
    return UnusableError(f"{size} bytes, more than the {MOST_BYTES} that are read of an image")


def first_of(where: Path, *patterns: str) -> Path | None:
    """Return ``where`` if it is a file, else the first thing in it that fits the first pattern."""
    if where.is_file():
        return where
    return next((path for pattern in patterns for path in sorted(where.glob(pattern))), None)
