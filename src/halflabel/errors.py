"""The one error class for mistakes a user can mend, and the "did you mean" helper that its messages use."""

import difflib
from collections.abc import Iterable


class HalflabelError(ValueError):
    """A user's mistake, told in one line: what, where, what to do. The command line exits with code 2 on it."""


def did_you_mean(word: str, choices: Iterable[str], count: int = 3) -> str:
    """Return a clause that names the choices nearest to a misspelt word.

    Args:
        word: What was given.
        choices: What would have been right.
        count: The largest number of names to show.

    Returns:
        `"; did you mean a, b or c?"` for the nearest choices, or `""` where none is near.
    """
    near = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=count, cutoff=0.5)
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else ", ".join(near[:-1]) + " or " + near[-1]
    return f"; did you mean {listed}?"


def shortlist(items: Iterable[object], limit: int = 5) -> str:
    """Return the first items, comma-separated, and a count of the rest."""
    listed = [str(item) for item in items]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")
