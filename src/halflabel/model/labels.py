"""What a label is: 1 (yes), 0 (no), unknown or uncertain, and how these are written and counted.

A *label* is one yes/no question. For one image it is *known* (1 or 0), *unknown* (nobody looked) or, in some sources,
*uncertain* (somebody looked and could not tell). Unknown is `IGNORE_INDEX`, uncertain is `UNCERTAIN`; None, NaN, "",
-1 and what a source calls uncertain are accepted where data come in and converted here, once.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import HalflabelError, did_you_mean, number, shortlist

IGNORE_INDEX = -100
"""The value of an unknown entry in a batch: the Trainer counts `labels.ne(-100)`, so its loss counts are exact."""

UNCERTAIN = -101
"""The value of an uncertain entry. Metrics and counts do not take it for known; a policy says what is trained on."""

IntMatrix = NDArray[np.int8]
_CONTROL = ("Cc", "Cs", "Zl", "Zp")  # surrogates are half a letter, which no file can hold
_PIECE = 255  # rows looked at together

MOST_LABELS = 100_000
"""A model has no more: a stranger's configuration could name any number, and memory would be taken for it."""

POSITIVE_CODES = frozenset({"1", "1.0", "true", "yes"})
NEGATIVE_CODES = frozenset({"0", "0.0", "false", "no"})
UNKNOWN_CODES = frozenset({"", "-1", "-1.0", "-100", "-100.0", "nan", "none", "null", "na", "n/a", "<na>"})
UNCERTAIN_CODES = frozenset({str(UNCERTAIN), f"{UNCERTAIN}.0"})


@dataclass(init=False, unsafe_hash=True)
class LabelSpace:
    """The ordered names of the yes/no questions one model answers.

    Args:
        names: The label names, distinct and not empty.

    Raises:
        HalflabelError: If there is no name, or a name is empty, padded with spaces, repeated, not a string, or
            holds a line break or another control character.
    """

    names: tuple[str, ...]

    def __init__(self, names: Iterable[str]) -> None:
        """Check the names and keep their order."""
        self.names = tuple(names)
        if not self.names:
            raise HalflabelError("no label names given: pass at least one")
        for name in self.names:
            if not isinstance(name, str) or not name.strip() or name != name.strip():
                raise HalflabelError(f"label name {name!r} is not a non-empty string without spaces around it")
            if any(unicodedata.category(letter) in _CONTROL for letter in name):
                raise HalflabelError(f"label name {name!r} holds a line break or another control character")
        repeated = sorted(name for name, count in Counter(self.names).items() if count > 1)
        if repeated:
            raise HalflabelError(f"label names given more than once: {shortlist(repeated)}")
        self._index = {name: i for i, name in enumerate(self.names)}

    def __len__(self) -> int:
        """Return the number of labels."""
        return len(self.names)

    def index(self, name: str) -> int:
        """Return the column of a label.

        Raises:
            HalflabelError: If there is no such label; the nearest names are shown.
        """
        if name not in self._index:
            raise HalflabelError(f"unknown label {name!r}{did_you_mean(name, self.names)}")
        return self._index[name]


def ordered_names(
    id2label: Any = None,  # noqa: ANN401 - these are from files
    label2id: Any = None,  # noqa: ANN401
    label_names: Any = None,  # noqa: ANN401
    num_labels: Any = None,  # noqa: ANN401
) -> tuple[str, ...] | None:
    """Return the label names in order, from whichever of transformers' keys say them; None where none does.

    Args:
        id2label: A mapping of numbers, or as in JSON their digits, to names.
        label2id: The other way round.
        label_names: The names in order.
        num_labels: How many; where nothing else is given they are called LABEL_0, LABEL_1 ..., as in transformers.

    Raises:
        HalflabelError: If they are not numbered 0, 1, 2 ..., are too many, or one key contradicts another.
    """
    said: dict[str, tuple[str, ...]] = {} if label_names is None else {"label_names": LabelSpace(label_names).names}
    for key, given, place in (("id2label", id2label, 0), ("label2id", label2id, 1)):
        if given is not None:
            said[key] = _by_number(key, given, place)
    count = next((len(names) for names in said.values()), num_labels)
    if count is None:
        return None
    number(1, MOST_LABELS, whole=True).check("num_labels", count if num_labels is None else num_labels)
    (key, names), *others = said.items() or [("num_labels", tuple(f"LABEL_{i}" for i in range(count)))]
    for other, differing in others:
        if differing != names:
            raise HalflabelError(f"{key} says {shortlist(names)}, and {other} {shortlist(differing)}: they must agree")
    if num_labels not in (None, count):
        raise HalflabelError(f"num_labels is {num_labels}, and {key} names {count}: {shortlist(names)}")
    return names


def _by_number(key: str, given: Any, place: int) -> tuple[str, ...]:  # noqa: ANN401
    """Return the names of a mapping in the order of their numbers, which stand at a place (0 or 1) of its items."""
    pairs: list[Any] = list(given.items()) if isinstance(given, Mapping) else [(None, None)]
    if not all(str(pair[place]).isdecimal() for pair in pairs):
        raise HalflabelError(f"{key} is {given!r}, expected numbers from 0 and label names")
    names = {int(pair[place]): pair[1 - place] for pair in pairs}
    if sorted(names) != list(range(len(pairs))):
        raise HalflabelError(f"{key} is numbered {shortlist(sorted(names))}, expected 0, 1, 2 ...")
    return LabelSpace(names[i] for i in range(len(names))).names


def encode_value(value: Any, uncertain: Collection[str] = ()) -> int:  # noqa: ANN401 - whatever a table cell may hold
    """Turn one cell into 1, 0, `IGNORE_INDEX` or `UNCERTAIN`.

    Args:
        value: The cell.
        uncertain: What the source writes for uncertain, as `uncertain_codes` gives it; it goes before all else.

    Raises:
        HalflabelError: If the value is none of the known codes; it names the value and the allowed ones.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return IGNORE_INDEX
    code = str(value).strip().lower()
    if code in uncertain or code in UNCERTAIN_CODES:
        return UNCERTAIN
    if code in POSITIVE_CODES:
        return 1
    if code in NEGATIVE_CODES:
        return 0
    if code in UNKNOWN_CODES:
        return IGNORE_INDEX
    raise HalflabelError(f"label value {value!r} is not 1, 0 or unknown (empty, NaN, -1)")


def uncertain_codes(values: Iterable[Any]) -> frozenset[str]:
    """Return what a source writes for uncertain in the forms its cells may take: -1 also as "-1.0"."""
    codes = {str(value).strip().lower() for value in values}
    for code in tuple(codes):
        try:
            codes |= {str(float(code)), str(int(float(code)))}
        except (ValueError, OverflowError):
            continue
    return frozenset(codes)


@dataclass(frozen=True)
class LabelCounts:
    """How much is known per label: int64 arrays of shape (num_labels,), and the number of images."""

    known: NDArray[np.int64]
    positive: NDArray[np.int64]
    negative: NDArray[np.int64]
    uncertain: NDArray[np.int64]
    images: int

    def __add__(self, other: "LabelCounts") -> "LabelCounts":
        """Return the counts of these images and the others."""
        return LabelCounts(
            self.known + other.known, self.positive + other.positive, self.negative + other.negative,
            self.uncertain + other.uncertain, self.images + other.images,
        )  # fmt: skip

    def one_answer(self, names: Sequence[str]) -> list[str]:
        """Return the labels that are only ever yes, or only ever no, with that answer behind the name."""
        answers = zip(names, self.positive, self.negative, strict=True)
        return [f"{name} ({'yes' if yes else 'no'})" for name, yes, no in answers if bool(yes) != bool(no)]

    @property
    def known_fraction(self) -> float:
        """The share of all entries that is known, in 0..1; NaN without entries."""
        entries = self.images * len(self.known)
        return float(self.known.sum() / entries) if entries else math.nan


def check_matrix(labels: NDArray[Any] | Sequence[Sequence[int]], *, any_below: bool = False) -> NDArray[Any]:
    """Return the labels as an array of shape (n, num_labels), all entries 1, 0, `IGNORE_INDEX` or `UNCERTAIN`.

    With `any_below` any number below 0 may stand for what is not known, like scikit-learn's -1.

    Raises:
        HalflabelError: On another shape or on another value, which is named with its place.
    """
    matrix = np.asarray(labels)
    if matrix.ndim != 2:
        raise HalflabelError(f"labels have shape {matrix.shape}, expected (images, num_labels)")
    for start, rows in _pieces(matrix):
        unknown = rows < 0 if any_below else (rows == IGNORE_INDEX) | (rows == UNCERTAIN)
        wrong = (rows != 0) & (rows != 1) & ~unknown
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise HalflabelError(
                f"label value {rows[row, column].item()!r} at row {start + row}, column {column} "
                f"is not 1, 0, {'or below 0 (unknown)' if any_below else f'{IGNORE_INDEX} or {UNCERTAIN}'}"
            )
    return matrix


def _pieces(matrix: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Give the rows in pieces, each with its first position: a billion entries must not be copied as a whole."""
    for start in range(0, len(matrix), _PIECE):
        yield start, matrix[start : start + _PIECE]


def evaluation_labels(labels: IntMatrix) -> IntMatrix:
    """Return the labels to measure on: what is not known is unknown, whatever it was trained as."""
    return np.where(labels < 0, np.int8(IGNORE_INDEX), labels)


def count_labels(labels: NDArray[Any] | Sequence[Sequence[int]]) -> LabelCounts:
    """Count known, positive, negative and uncertain entries per label.

    Args:
        labels: Array of shape (n, num_labels) with 1, 0, `IGNORE_INDEX` and `UNCERTAIN`.
    """
    matrix = check_matrix(labels)
    counts = {code: np.zeros(matrix.shape[1], dtype=np.int64) for code in (1, 0, UNCERTAIN)}
    for _, rows in _pieces(matrix):
        for code, count in counts.items():
            count += (rows == code).sum(axis=0, dtype=np.uint8)  # a piece has no more rows than a byte counts
    positive, negative, uncertain = counts.values()
    return LabelCounts(positive + negative, positive, negative, uncertain, len(matrix))
