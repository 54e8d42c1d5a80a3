"""Errors that a user can put right, and the names that they may have meant."""

import difflib
from collections.abc import Iterable


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
