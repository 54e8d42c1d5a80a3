"""Errors that a user can put right, and the names that they may have meant."""

import difflib
import errno
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can put right; the message is all that they need to see."""


def close_names(given: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the known names close to a given one, or nothing.

    Examples
    --------
    >>> close_names("minst", ["mnist", "utkface"])
    "; did you mean 'mnist'?"
    """
    close = difflib.get_close_matches(str(given), [str(name) for name in known], n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(map(repr, close))}?" if close else ""


OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE}
"""Numbers of errors that say something of the machine and nothing of the work."""


def of_the_machine(error: BaseException) -> bool:
    """Whether a full disk or the like is behind an error; libraries in Rust say so in words.

    Examples
    --------
    >>> of_the_machine(OSError(28, "No space left on device"))
    True
    >>> of_the_machine(ValueError("I/O error: No space left on device (os error 28)"))
    True
    """
    number = error.errno if isinstance(error, OSError) else None
    words = re.search(r"\(os error (\d+)\)", str(error))
    return (int(words[1]) if words else number) in OF_THE_MACHINE


@contextmanager
def named(what: str, kind: type[UserError] = UserError) -> Iterator[None]:
    """Around code of the user's own, which may raise anything: say what fails, why and where.

    Errors of a user pass as they are, and so does what says something of the machine.

    Examples
    --------
    >>> with named("the function 'half'"):
    ...     1 / 0
    Traceback (most recent call last):
    ...
    quantskew.errors.UserError: the function 'half' fails: ZeroDivisionError: division by zero ...
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, UserError | MemoryError) or of_the_machine(error):
            raise
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise kind(
            f"{what} fails: {type(error).__name__}: {error} ({place.filename}:{place.lineno})"
        ) from error


class MissingExtraError(UserError, ImportError):
    """A library that quantskew needs for this is not installed; the message says how to get it."""


@contextmanager
def extras() -> Iterator[None]:
    """Say which extra of quantskew brings a library that is missing; other errors stay as they are.

    Examples
    --------
    >>> with extras():
    ...     raise ModuleNotFoundError("No module named 'ray'", name="ray")
    Traceback (most recent call last):
    ...
    quantskew.errors.MissingExtraError: this needs ray, which is not installed; \
pip install 'quantskew[ray]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        from importlib.metadata import metadata, requires

        from packaging.requirements import Requirement

        library = (error.name or "").partition(".")[0]
        known = metadata("quantskew").get_all("Provides-Extra") or ()
        for need in map(Requirement, requires("quantskew") or ()):
            if need.marker is None or need.name.replace("-", "_") != library:
                continue
            for extra in known:
                if need.marker.evaluate({"extra": extra}):
                    raise MissingExtraError(
                        f"this needs {library}, which is not installed; "
                        f"pip install 'quantskew[{extra}]'"
                    ) from error
        raise


def one_of(what: str, given: str | None, known: Sequence[str]) -> str:
    """Return the name that was given, or the only one there is.

    A :class:`UserError` says when there is no such name, or several of which none was given.
    """
    if given is None and len(known) == 1:
        return known[0]
    if given is None or given not in known:
        problem = f"no {what} {given!r}" if given else f"several {what}s; give --{what}"
        raise UserError(f"{problem}: there are {', '.join(known)}{close_names(given or '', known)}")
    return given
