"""One source of annotated pictures: how it is named, what is wrong in it, and where its pictures lie."""

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import Repr
from typing import Any

import pandas as pd

from ..model.errors import HalflabelError, did_you_mean
from ..model.labels import encode_value, uncertain_codes
from .images import AnnotatedImages, check_split

ABSENT = ("negative", "unknown")
MISSING_IMAGES = ("error", "skip")
SHOWN, ALIKE = 20, 5
"""So many faults are told, and so many of one kind: the rest of a column that is wrong as a whole says nothing new."""
FEW = 8
"""Of so few images in a folder each is asked for; of more, listing the folder is faster."""
SAMPLE = 20
"""How many images are looked for to tell which folder they are in."""

_SHORT = Repr()  # a cell may be of any size
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 120, 120, 2
_KINDS: dict[str, Any] = {"labels": Sequence, "uncertain_values": Sequence, "label_map": Mapping, "allow_outside": bool}
"""The kind of each key of a source that is not a text."""


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        path: A file, a folder, the name of a data set on the Hub, or `street_scenes`.
        format: The name of a reader, see `loading.READERS`; None: found out from the path.
        name: What the source is called in reports; None: its path.
        image_folder: What file names are relative to; None: as the format has it.
        labels: Use only these labels, by the source's own names; None: all.
        label_map: The source's label name -> the name it gets, or None to drop it.
        absent: What a label means that an image is not annotated with: `negative` or `unknown`; None: as the format
            has it.
        uncertain_values: Cells of a table that mean uncertain: somebody looked and could not tell.
        split: All images go to this split, whatever the source says; None: as it says.
        image_column: Of a `datasets` source, the pictures; None: its only column of that kind.
        label_column: Of a `datasets` or `imagefolder` source, the column that lists an image's labels
            (`objects.category` inside another) or names its only one; None: found out from the columns.
        descriptions: For Open Images, the class-descriptions file: codes become names.
        missing_images: For Open Images, of which few people have every picture: `skip` leaves out those that are not
            there, `error` and None do not.
        allow_outside: Allow file names that are absolute or leave the image folder.
        content: A table or pictures that are in memory, in the place of what lies at the path.
    """

    path: str
    format: str | None = None
    name: str | None = None
    image_folder: str | None = None
    labels: tuple[str, ...] | None = None
    label_map: Mapping[str, str | None] | None = None
    absent: str | None = None
    uncertain_values: tuple[str, ...] = ()
    split: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    descriptions: str | None = None
    missing_images: str | None = None
    allow_outside: bool = False
    content: pd.DataFrame | AnnotatedImages | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Check the words."""
        for key, words in (("absent", ABSENT), ("missing_images", MISSING_IMAGES)):
            check_word(self.path, key, getattr(self, key), words)
        if self.split is not None:
            object.__setattr__(self, "split", check_split(self.split))

    @property
    def title(self) -> str:
        """What the source is called in reports."""
        return self.name or self.path

    @property
    def named_labels(self) -> frozenset[str]:
        """What the user calls a label; so may be a column like `source` that else says something of the picture."""
        return frozenset({*(self.labels or ()), *(self.label_map or ()), self.label_column or ""})


def check_word(path: str, key: str, value: str | None, words: Sequence[str]) -> None:
    """Refuse a value of a source's key that is none of the words for it."""
    if value is not None and value not in words:
        nearest = did_you_mean(str(value), words)
        raise HalflabelError(f"source {path}: {key} {value!r} is none of {', '.join(words)}{nearest}")


def parse_source(given: Any) -> Source:  # noqa: ANN401 - from a file
    """Read one source: a path, a data frame, annotated images, or a mapping of `Source`'s keys.

    A data frame comes from the user's own program, so its file names may be absolute.

    Raises:
        HalflabelError: On an unknown key (with the nearest one), a value of the wrong kind, or no path.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, str | os.PathLike):
        return Source(os.fspath(given))
    if isinstance(given, pd.DataFrame | AnnotatedImages):
        return Source("data frame" if isinstance(given, pd.DataFrame) else "images", content=given, allow_outside=True)
    if not isinstance(given, Mapping):
        raise HalflabelError(f"data: {given!r} is neither a path nor a mapping with a path")
    keys = [one.name for one in fields(Source) if one.name != "content"]
    for key in given:
        if key not in keys:
            raise HalflabelError(f"data: unknown key {key!r} of a source{did_you_mean(str(key), keys)}")
    values = {key: value for key, value in given.items() if value is not None}  # null: as the default has it
    if isinstance(values.get("path"), pd.DataFrame | AnnotatedImages | os.PathLike):
        whole = parse_source(values["path"])
        values = {"allow_outside": whole.allow_outside, **values, "path": whole.path, "content": whole.content}
    path = values.get("path")
    if not isinstance(path, str) or not path:
        raise HalflabelError(f"data: the source {dict(given)!r} has no 'path'")
    for key in values.keys() - {"content"}:
        values[key] = _check_value(path, key, values[key])
    return Source(**values)


def _check_value(path: str, key: str, value: Any) -> Any:  # noqa: ANN401 - from a file
    kind = _KINDS.get(key, str)
    if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str)):
        expected = {str: "a text", bool: "true or false", Mapping: "a mapping"}.get(kind, "a list")
        raise HalflabelError(f"data: {key} of {path} is {value!r}, expected {expected}")
    for name, new in value.items() if kind is Mapping else ():
        if not isinstance(name, str) or not isinstance(new, str | None):
            raise HalflabelError(
                f"data: label_map of {path} has {name!r}: {new!r}, expected names (quote those like 'no')"
            )
    return tuple(map(str, value)) if kind is Sequence else value


class Faults:
    """What is wrong in one file, told all at once: in the order of its rows, what has no row first."""

    def __init__(self, path: str | Path) -> None:
        """Start without any."""
        self.path = path
        self._texts: dict[tuple[str, str], None] = {}
        self._cells: set[str] = set()
        self._untold = 0
        self._hints: dict[str, None] = {}

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._texts) + self._untold

    def add(self, where: str, text: str) -> None:
        """Note a fault: `where` in the file ("row 3, column 'car'", or "" for the whole), and what is wrong.

        Of one cell only the first fault is noted: the others mostly follow from it.
        """
        if ", column " in where:
            if where in self._cells:
                return
            self._cells.add(where)
        self._texts[where, text] = None

    def add_rows(self, rows: Iterable[int], tell: Callable[[int], tuple[str, str]]) -> None:
        """Note a fault of each of these rows, which ascend; texts are made only of those that may be shown.

        Args:
            rows: Positions.
            tell: Returns `where` and the text for a position.
        """
        positions = list(rows)
        for row in positions[:SHOWN]:
            self.add(*tell(int(row)))
        self._untold += len(positions[SHOWN:])

    def hint(self, text: str) -> None:
        """Note what may mend the faults; it is told after them."""
        self._hints[text] = None

    def raise_any(self) -> None:
        """Raise what there is.

        Raises:
            HalflabelError: In one line: the file, the first 20 faults but of a kind the first 5, how many more there
                are, and the hints.
        """
        if not self._texts:
            return
        kinds: Counter[str] = Counter()
        ordered = []
        for where, text in sorted(self._texts, key=lambda fault: _row_number(fault[0])):
            # Of one kind are faults that differ in their row, their numbers and what they quote.
            kind = re.sub(r"^row \d+", "", where) + re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "", text)
            kinds[kind] += 1
            if kinds[kind] <= ALIKE:
                ordered.append((where, text))
        shown = [f"{where}: {text}" if where else text for where, text in ordered[:SHOWN]]
        more = len(self) - len(shown)
        rest = [f"and {more} more fault{'s' if more > 1 else ''}"] if more > 0 else []
        separator = ", " if ordered[0][0].startswith(("row", "column")) else ": "
        text = f"{self.path}{separator}{'; '.join([*shown, *rest, *self._hints])}"
        raise HalflabelError("\\n".join(text.splitlines()))  # names within may hold line ends


def _row_number(where: str) -> int:
    found = re.match(r"row (\d+)", where)
    return int(found.group(1)) if found else 0


def show(value: object) -> str:
    """Return a value as a short text of one line."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to show"


def check_name(name: object, file: bool = False) -> str:
    """Return what is wrong with a label name, or with a file name that is looked for; "" where nothing is."""
    if not isinstance(name, str):
        return f"is {show(name)}, expected text"
    if not name.strip():
        return "is empty"
    try:
        parts = [len(part) for part in name.encode().split(b"/")]
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON and YAML can spell
        return f"{show(name)} is not valid text"
    if file:  # the operating system has errors of their own for these, where it should say "not there"
        impossible = "\0" in name or max(parts) > 255 or sum(parts) > 3000
        return f"{show(name)} cannot be a file name" if impossible else ""
    return f"{show(name)} has blanks around it or a line break" if name != name.strip() or name.splitlines()[1:] else ""


def check_names(names: Sequence[object], wheres: Sequence[str], faults: Faults) -> None:
    """Note every label name that is none, or is given twice."""
    seen: dict[object, str] = {}
    for name, where in zip(names, wheres, strict=True):
        wrong = check_name(name)
        if not wrong and name in seen:
            wrong = f"{show(name)} is already that of {seen[name]}"
        if wrong:
            faults.add(where, f"the name {wrong}")
        else:
            seen[name] = where


def name_labels(path: str | Path) -> str:
    """Return how a source says which of its columns are labels, for the end of a message."""
    source = json.dumps({"path": str(path), "labels": ["cat", "dog"]}, ensure_ascii=False)
    return f"name the label columns by labels, with '{source}' as the source"


def check_origins(
    source: Source,
    names: Collection[str],
    labels: Collection[str],
    words: Mapping[str, Collection[str]],
    faults: Faults,
) -> None:
    """Note a column `group` or `source` that holds nothing but answers: taken for texts, a label would be lost.

    Args:
        source: Where it is from; who names its labels has said which columns are none.
        names: All columns.
        labels: The labels, which may stand in a column each.
        words: The texts that are in each of the two columns that is there.
        faults: Where to note it.
    """
    if source.labels or not {(source.label_map or {}).get(name, name) for name in names}.issuperset(labels):
        return
    uncertain = uncertain_codes(source.uncertain_values)
    for name in words.keys() - source.named_labels:
        with contextlib.suppress(HalflabelError):  # a word that is no answer
            if {0, 1} & {encode_value(word, uncertain) for word in words[name]}:
                text = "it holds answers, and says of a picture what belongs together or where it is from"
                faults.add(f"column {name!r}", f"{text}; if it is a label, {name_labels(source.path)}")


def locate_images(
    folder: Path, names: Sequence[str], where: Callable[[int], str], faults: Faults, allow_outside: bool = False
) -> list[str]:
    """Return the full path of each image, and note a fault for each that cannot be used.

    A folder of many images is listed once, which is faster than asking for each, on a network drive by far.

    Args:
        folder: What the names are relative to.
        names: File names.
        where: Returns the place in the annotation file where a name stands, for its position.
        faults: Where to note a name that is absolute or leaves the folder, and an image that is not there.
        allow_outside: Absolute names and names with `..` are allowed.
    """
    root = str(folder)
    paths = [os.path.join(root, name) for name in names]  # noqa: PTH118 - a quarter of a million times
    parents = [path.rpartition("/")[0] for path in paths]
    listed = {parent: _files(parent) for parent, count in Counter(parents).items() if count > FEW}
    missing = []
    for i, (name, path, parent) in enumerate(zip(names, paths, parents, strict=True)):
        if not allow_outside and leaves_folder(name):
            faults.add(where(i), f"{show(name)} leaves the image folder {folder}")
        elif parent not in listed:
            if not os.path.isfile(path):  # noqa: PTH113 - likewise
                missing.append(i)
        elif path[len(parent) + 1 :] not in listed[parent]:
            missing.append(i)
    faults.add_rows(missing, lambda i: (where(i), f"no image {show(names[i])} in {folder}"))
    if missing:
        faults.hint("is image_folder right?")
    return paths


def leaves_folder(name: str) -> bool:
    """Tell whether a file name is absolute, or climbs out of its folder; in the Windows way too."""
    if ".." not in name and ":" not in name and not name.startswith(("/", "\\")):
        return False
    windows = PureWindowsPath(name)
    return bool(PurePosixPath(name).is_absolute() or windows.drive or windows.root or ".." in windows.parts)


def _files(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (OSError, ValueError):  # not there, not a folder, not readable; a NUL byte in the name
        return set()


def image_folder(path: Path, files: Sequence[str], given: str | None, *others: Path) -> Path:
    """Return what file names are relative to: the given folder, else the first candidate that holds one of the images.

    Args:
        path: The annotation file; its folder, and `images` in it, are the first candidates.
        files: File names, of which the first few are looked for.
        given: What the user says.
        others: Further candidates.

    Raises:
        HalflabelError: If the given folder does not exist.
    """
    if given is not None:
        if not os.path.isdir(given):  # noqa: PTH112 - which knows what to do with a name that is too long
            raise HalflabelError(f"image_folder {given!r}: no such folder")
        return Path(given)
    candidates = (path.parent, path.parent / "images", *others)
    return next((folder for folder in candidates if holds_any(folder, files)), path.parent)


def holds_any(folder: Path, files: Sequence[str]) -> bool:
    """Tell whether one of the first images is in a folder."""
    return any(file and os.path.isfile(folder / file) for file in files[:SAMPLE])  # noqa: PTH113 - likewise
