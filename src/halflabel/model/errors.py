"""The one error class for mistakes a user can mend, and what its messages are made of."""

import difflib
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class HalflabelError(ValueError):
    """A user's mistake, told in one line: what, where, what to do. The command line exits with code 2 on it."""


def reason_of(error: BaseException, *, first_line: bool = False) -> str:
    """Return what an error of another library says, as a part of one line.

    Args:
        error: What was raised.
        first_line: Only what stands in its first line, for libraries that put advice or a trace below it.

    Returns:
        The text, cut at 400 characters (it may name long paths); the name of its class where it says nothing.
    """
    text = str(error).strip() or type(error).__name__
    line = " ".join((text.splitlines()[0] if first_line else text).split())
    return line if len(line) <= 400 else line[:399] + "…"


_MOVING = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: object) -> str:
    r"""Return a text in one line as it may go to a terminal or a page, where a stranger's name must move nothing else.

    Control characters, marks that turn the direction of reading, and the bytes of a file name that is not UTF-8 become
    codes like \x1b and \u202e; everything else stays.
    """
    return _MOVING.sub(lambda found: found[0].encode("unicode_escape").decode().replace(r"\udc", r"\x"), str(text))


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch, or Python, could not allocate what was asked for."""
    words = ("can't allocate memory", "Cannot allocate memory")
    return (
        isinstance(error, MemoryError)
        or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__)
        or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))
    )


def did_you_mean(word: str, choices: Iterable[str], most: int = 3) -> str:
    """Return `"; did you mean a, b or c?"` for the choices nearest to a misspelt word, or `""` where none is near."""
    near = difflib.get_close_matches(str(word), [str(choice) for choice in choices], n=most, cutoff=0.5)
    if not near:
        return ""
    listed = near[0] if len(near) == 1 else ", ".join(near[:-1]) + " or " + near[-1]
    return f"; did you mean {listed}?"


def nearest_file(path: str | os.PathLike[str]) -> str:
    """Return `did_you_mean`'s clause for a file or folder that is not there: the name beside it that is nearest."""
    folder, name = os.path.split(os.path.normpath(path))
    try:
        beside = os.listdir(folder or ".")
    except (OSError, ValueError):  # no such folder either; a NUL byte in its name
        return ""
    choices = {entry.casefold(): entry for entry in beside if entry != name}
    near = difflib.get_close_matches(name.casefold(), choices, n=1, cutoff=0.8)
    return f"; did you mean {os.path.join(folder, choices[near[0]])}?" if near else ""


def shortlist(items: Iterable[object], limit: int = 5) -> str:
    """Return the first items, comma-separated, and a count of the rest."""
    listed = [str(item) for item in items]
    rest = len(listed) - limit
    return ", ".join(listed[:limit]) + (f" and {rest} more" if rest > 0 else "")


OWN = "own:"
"""A backbone, head or loss that a program gave is named so in a configuration, which cannot hold the thing itself."""


def part_name(part: Any) -> Any:  # noqa: ANN401 - a key, a class, a function or a module
    """Return a key (or None) as it is, and `own:NAME` for a part that a program gave."""
    return part if part is None or isinstance(part, str) else OWN + getattr(part, "__name__", type(part).__name__)


def is_own(name: object) -> bool:
    """Tell whether a name stands for a part that a program gave."""
    return isinstance(name, str) and name.startswith(OWN)


def missing_part(key: str, name: str) -> HalflabelError:
    """Return the error for a part that only the program that trained the model can give."""
    part = name.removeprefix(OWN)
    return HalflabelError(f"{key} {part} is code of your own, which no file holds: give it from Python, {key}={part}")


@dataclass(frozen=True)
class Kind:
    """What a value that a person gave may be: the words for it, how to tell, and where these are few the choices."""

    words: str
    fits: Callable[[Any], bool]
    choices: tuple[str, ...] = ()

    def check(self, what: str, value: object) -> None:
        """Refuse a value that is not of this kind; `what` names it in the message.

        Raises:
            HalflabelError: It says the value and what is expected.
        """
        if not self.fits(value):
            raise HalflabelError(f"{what} is {value!r}, expected {self.words}{did_you_mean(str(value), self.choices)}")

    def check_each(self, what: str, values: Sequence[Any], count: int) -> None:
        """Refuse what does not hold one value of this kind for each of `count` labels; errors as `check`."""
        if not isinstance(values, list | tuple):
            raise HalflabelError(f"{what} is {values!r}, expected a list")
        if len(values) != count:
            raise HalflabelError(f"{what} holds {len(values)} values for {count} labels")
        for value in values:
            if not self.fits(value):
                raise HalflabelError(f"{what} holds {value!r}, expected {self.words}")

    def or_none(self) -> "Kind":
        """Return the same, or None."""
        return Kind(self.words, lambda value: value is None or self.fits(value), self.choices)


def check_arguments(owner: str, given: Mapping[str, Any], kinds: Mapping[str, Kind]) -> None:
    """Refuse an argument that `owner`, a head or a loss, does not take, or a value that is not of its kind.

    Raises:
        HalflabelError: It names the argument and the right ones.
    """
    for key, value in given.items():
        if key not in kinds:
            listed = ", ".join(kinds) or "none"
            raise HalflabelError(f"{owner} takes no argument {key!r}; it takes {listed}{did_you_mean(key, kinds)}")
        kinds[key].check(f"{owner}: {key}", value)


FLAG = Kind("true or false", lambda value: isinstance(value, bool))


def number(
    low: float = -math.inf, high: float = math.inf, *, above: bool = False, below: bool = False, whole: bool = False
) -> Kind:
    """Return the finite numbers from `low` to `high`; `above` and `below` leave out the ends."""
    parts = [] if low == -math.inf else [f"above {low}" if above else f"of at least {low}"]
    parts += [] if high == math.inf else [f"below {high}" if below else f"at most {high}"]
    words = f"a {'whole' if whole else '' if parts else 'finite'} number {' and '.join(parts)}"

    def fits(value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        inside = (value > low if above else value >= low) and (value < high if below else value <= high)
        return inside and (not whole or isinstance(value, int))

    return Kind(" ".join(words.split()), fits)


def one_of(*choices: str) -> Kind:
    """Return a few words."""
    return Kind(f"{', '.join(choices[:-1])} or {choices[-1]}", lambda value: value in choices, choices)


def list_of(kind: Kind, words: str) -> Kind:
    """Return lists, not empty, of what is of a kind; `words` says it in the plural."""
    return Kind(
        f"a list of {words}",
        lambda value: isinstance(value, list | tuple) and len(value) > 0 and all(kind.fits(one) for one in value),
    )
