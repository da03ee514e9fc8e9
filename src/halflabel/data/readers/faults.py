"""The faults of one file, collected so that all are told at once."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from reprlib import Repr

from ...model.errors import HalflabelError

SHOWN, ALIKE = 20, 5
"""So many faults are told, and so many of one kind: the rest of a column that is wrong as a whole says nothing new."""
FEW = 8
"""Of so few images in a folder each is asked for; of more, listing the folder is faster."""

_SHORT = Repr()  # a cell may be of any size
_SHORT.maxstring, _SHORT.maxother, _SHORT.maxlevel = 120, 120, 2


class Faults:
    """Faults of one file; they are told in the order of its rows, those without a row first."""

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
            kind = _kind(where, text)
            kinds[kind] += 1
            if kinds[kind] <= ALIKE:
                ordered.append((where, text))
        shown = [f"{where}: {text}" if where else text for where, text in ordered[:SHOWN]]
        more = len(self) - len(shown)
        rest = [f"and {more} more fault{'s' if more > 1 else ''}"] if more > 0 else []
        separator = ", " if ordered[0][0].startswith(("row", "column")) else ": "
        text = f"{self.path}{separator}{'; '.join([*shown, *rest, *self._hints])}"
        raise HalflabelError("\\n".join(text.splitlines()))  # names within may hold line ends


def _kind(where: str, text: str) -> str:
    """Return what faults have in common that differ in their row, their numbers and what they quote."""
    return re.sub(r"^row \d+", "", where) + re.sub(r"'[^']*'|\"[^\"]*\"|\d+", "", text)


def _row_number(where: str) -> int:
    found = re.match(r"row (\d+)", where)
    return int(found.group(1)) if found else 0


def show(value: object) -> str:
    """Return a value as a short text of one line."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # an integer of thousands of digits
        return f"a {type(value).__name__} too long to show"


def locate_images(
    folder: Path, names: Sequence[str], wheres: Sequence[str], faults: Faults, allow_outside: bool = False
) -> list[str]:
    """Return the full path of each image, and note a fault for each that cannot be used.

    A folder of many images is listed once, which is faster than asking for each, on a network drive by far.

    Args:
        folder: What the names are relative to.
        names: File names.
        wheres: Where in the annotation file each name stands.
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
            faults.add(wheres[i], f"{show(name)} leaves the image folder {folder}")
        elif parent not in listed:
            if not os.path.isfile(path):  # noqa: PTH113 - likewise
                missing.append(i)
        elif path[len(parent) + 1 :] not in listed[parent]:
            missing.append(i)
    faults.add_rows(missing, lambda i: (wheres[i], f"no image {show(names[i])} in {folder}"))
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
