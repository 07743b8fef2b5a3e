"""The one exception a user's mistake raises: a single line saying what is wrong, where, and what to do."""

import difflib
from collections.abc import Iterable


class UsageError(ValueError):
    """Bad input or options. The command line prints its message as one line and exits with code 2."""


def did_you_mean(word: str, known: Iterable[str], *, otherwise: str = "") -> str:
    """' (did you mean X?)' for the known word nearest to `word`, or `otherwise` when none is near."""
    by_lower = {name.lower(): name for name in known}
    match = difflib.get_close_matches(word.lower(), by_lower, n=1, cutoff=0.6)
    return f" (did you mean {by_lower[match[0]]}?)" if match else otherwise
