"""YOLO: a text file a picture, a line an object, and the names of the classes in data.yaml or classes.txt."""

import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os.path import abspath, basename, dirname, exists, isdir, isfile, join, normpath, splitext
from pathlib import Path
from typing import Any

import numpy as np

from ...model.errors import HalflabelError
from ...model.labels import IGNORE_INDEX, IntMatrix
from ..files import read_yaml
from ..images import AnnotatedImages, build_images, check_split, guess_split
from ..source import Faults, Source, check_name, check_names, image_folder, show
from .voc import PICTURE_ENDINGS, find_files, read_lines

log = logging.getLogger(__name__)
CONFIGURATIONS = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAME_FILES = ("classes.txt", "obj.names", "names.txt")
SPLIT_KEYS = ("train", "val", "valid", "validation", "test")


@dataclass
class _Folder:
    """A YOLO data set that is being read; all paths are full."""

    home: str  # the folder it lies in, that of data.yaml
    root: str  # what paths in data.yaml are relative to
    outside: bool  # paths may leave both
    faults: Faults
    pictures: dict[str, tuple[str, str]] = field(default_factory=dict)  # path -> its split, and where it stands
    pairs: dict[str, str] = field(default_factory=dict)  # folder of label files -> folder of their pictures
    lists: set[str] = field(default_factory=set)  # text files that list pictures

    def choose(self, *paths: str) -> str | None:
        """Return the first path that may be read and exists, else the first of all; None if that may not be read."""
        allowed = [path for path in map(normpath, paths) if self.outside or self._base(path)]
        first = [path for path in allowed if path == normpath(paths[0])]
        return next(iter([*filter(exists, allowed), *first]), None)

    def _base(self, path: str) -> str:
        return next((base for base in (self.root, self.home) if f"{path}/".startswith(base.rstrip("/") + "/")), "")

    def short(self, path: str) -> str:
        """Return a path relative to the root or home, if it lies in it."""
        return path[len(self._base(path)) :].lstrip("/") if self._base(path) else path

    def where(self, path: str, line: int | None = None) -> str:
        """Return a place, for people, in one line."""
        short = self.short(path)
        return (short or "." if short.isprintable() else show(short)) + ("" if line is None else f", line {line}")

    def label_file(self, picture: str) -> str:
        """Return a picture's label file: `labels` for the last `images` in the path, else beside it."""
        # Folders above the data set do not count: it may itself lie in a folder `images`.
        start = len(self.home) if picture.startswith(self.home + "/") else 0
        head, found, tail = picture[start:].rpartition("/images/")
        return splitext(f"{picture[:start]}{head}/labels/{tail}" if found else picture)[0] + ".txt"

    def add(self, picture: str, split: str, where: str) -> None:
        """Take a picture in, once."""
        wrong = check_name(picture, file=True)
        if not wrong and picture in self.pictures:
            other, first = self.pictures[picture]
            wrong = f"{show(self.short(picture))} of {split or 'images'} is already in {other or 'images'} ({first})"
        if wrong:
            self.faults.add(where, wrong)
        else:
            self.pictures[picture] = (split, where)
            self.pairs[dirname(self.label_file(picture))] = dirname(picture)


def read_yolo(source: Source) -> AnnotatedImages:
    """Read a YOLO folder or its data.yaml (https://docs.ultralytics.com/datasets/detect), boxes or polygons.

    `data.yaml` has the `names`, and as `train`, `val` and `test` folders or lists of pictures. Without it, names are
    the lines of `classes.txt`, `obj.names` or `names.txt`, pictures lie in `images`, and a folder's name may say the
    split. A class with any line in a picture's label file is 1; another is 0, or unknown where `absent` is `unknown`.
    An empty label file says that somebody looked and found nothing; without one nobody looked: all labels are unknown,
    and a warning counts such pictures.

    Returns:
        The images by split and path, `file_name` relative to the root; labels int8 of shape (images, names).

    Raises:
        HalflabelError: With file and line, the faults of all files at once: names or paths in data.yaml of the wrong
            kind, a path that leaves the folder or does not exist, a picture given twice, a line that is neither a box
            nor a polygon, a class without a name, a label file without a picture; or if there are no label files.
    """
    place = Path(source.path)
    if not place.exists():
        raise HalflabelError(f"{place}: no such file or folder")
    top = place if place.is_dir() else place.parent
    usual = next((top / name for name in CONFIGURATIONS if (top / name).is_file()), None)
    file = usual if place.is_dir() else place
    faults, root = Faults(top), image_folder(top / "any", [], source.image_folder)
    folder = _Folder(abspath(top), abspath(root), source.allow_outside, faults)  # links are left as they are
    content = read_yaml(file) if file else {}
    if not isinstance(content, dict):
        raise HalflabelError(f"{file}: it is {show(content)}, expected keys: names, train, val, test")
    title = file.name if file else ""
    names = _names_of_yaml(content, title, faults) if file else _names_of_text(top, faults)
    if source.image_folder is None and content.get("path") is not None:
        _move_root(folder, content["path"], title)
    _find_pictures(folder, content, title)
    codes = _read_boxes(folder, len(names), source.absent)
    _note_lone_labels(folder)
    faults.raise_any()
    splits = [split for split, _ in folder.pictures.values()]
    return build_images([folder.short(path) for path in folder.pictures], list(folder.pictures), codes, names, splits)


def looks_like_yolo(source: Source) -> bool:
    """Tell whether this is a data.yaml, or a folder with one, or with a file of names beside `images` or `labels`."""
    path = Path(source.path)
    try:
        if path.is_file():
            keys = _keys(path) if path.suffix in (".yaml", ".yml") else set()
            return "names" in keys and not keys.isdisjoint({*SPLIT_KEYS, "path", "nc"})
        if any("names" in _keys(path / name) for name in CONFIGURATIONS if (path / name).is_file()):
            return True
        named = any((path / name).is_file() or (path / "labels" / name).is_file() for name in NAME_FILES)
        return named and ((path / "images").is_dir() or (path / "labels").is_dir())
    except (OSError, ValueError):  # ValueError: a path with a null character
        return False


def _keys(path: Path) -> set[str]:
    with path.open("rb") as file:
        text = file.read(1 << 20).decode("utf-8-sig", errors="replace")
    return set(re.findall(r"(?:^|[{,])[ \t]*[\"']?(\w+)[\"']?[ \t]*:", text, re.MULTILINE))


def _names_of_yaml(content: Mapping[Any, Any], file: str, faults: Faults) -> list[str]:
    given = content.get("names")
    if isinstance(given, dict) and given:
        if set(given) != set(range(len(given))):
            faults.add(f"{file}, names", f"class numbers {show(list(given))}, expected 0 to {len(given) - 1}")
        given = [given.get(i, name) for i, name in enumerate(given.values())]
    if not isinstance(given, list) or not given:
        raise HalflabelError(f"{faults.path}: {file}, names: it is {show(given)}, expected a list or class: name")
    if "nc" in content and (type(content["nc"]) is not int or content["nc"] != len(given)):
        faults.add(f"{file}, nc", f"it is {show(content['nc'])}, but there are {len(given)} names")
    check_names(given, [f"{file}, class {i}" for i in range(len(given))], faults)
    return given


def _names_of_text(top: Path, faults: Faults) -> list[str]:
    places = [folder / name for folder in (top, top / "labels") for name in NAME_FILES]
    path = next((path for path in places if path.is_file()), None)
    if path is None:
        raise HalflabelError(f"{top}: no names of classes; expected data.yaml or {', '.join(NAME_FILES)}")
    where = str(path.relative_to(top))
    lines = dict(read_lines(path, where, faults) or [])
    if not lines:
        faults.add(where, "it has no names")
        faults.raise_any()
    numbers = range(1, max(lines) + 1)  # a blank line between others is a class without a name
    names = [lines.get(number, "") for number in numbers]
    check_names(names, [f"{where}, line {number}" for number in numbers], faults)
    return names


def _move_root(folder: _Folder, given: object, file: str) -> None:
    """Take the root that data.yaml names; where it is not there, it is of another machine, and home is the root."""
    path = normpath(join(folder.home, given)) if isinstance(given, str) else ""
    if not path:
        folder.faults.add(f"{file}, path", f"it is {show(given)}, expected a folder")
    elif not isdir(path):
        log.warning("%s: its path %s is not there, so the file's own folder is taken", file, show(given))
    elif folder.choose(path) is None:
        folder.faults.add(f"{file}, path", f"{show(given)} leaves the data folder {folder.home}")
    else:
        folder.root = path


def _find_pictures(folder: _Folder, content: Mapping[Any, Any], file: str) -> None:
    usual = [name for name in ("images", *(f"{key}/images" for key in SPLIT_KEYS)) if isdir(join(folder.root, name))]
    entries = [(key, content[key]) for key in SPLIT_KEYS if content.get(key) is not None]
    for key, value in entries or [("", usual)]:
        for given in value if isinstance(value, list) else [value]:
            where = f"{file}, {key}"
            if not isinstance(given, str) or not given.strip():
                folder.faults.add(where, f"it is {show(given)}, expected a folder, a list of pictures, or several")
                continue
            # Roboflow writes ../train/images for train/images.
            path = folder.choose(join(folder.root, given), join(folder.root, given.removeprefix("../")))
            if path is None:
                folder.faults.add(where, f"{show(given)} leaves the data folder {folder.root}")
            elif isdir(path):
                _walk(folder, path, check_split(key) if key else None)
            elif isfile(path) and path.endswith(".txt"):
                _read_list(folder, path, check_split(key))
            else:
                folder.faults.add(where, f"no folder and no .txt file {show(given)} in {folder.root}")
    if not folder.pictures:
        folder.faults.add("", f"no pictures in {folder.root}")
        folder.faults.raise_any()


def _walk(folder: _Folder, path: str, split: str | None) -> None:
    """Take in the pictures of a folder; without a split, a folder's name may say it."""
    labels = dirname(folder.label_file(f"{path}/x"))
    if labels != path:
        folder.pairs |= {place: path + place[len(labels) :] for place, _, _ in os.walk(labels)}
    for picture in find_files(path, PICTURE_ENDINGS, folder.faults):
        guesses = map(guess_split, folder.short(dirname(picture)).split("/"))
        folder.add(picture, next(filter(None, guesses), "") if split is None else split, folder.where(picture))


def _read_list(folder: _Folder, path: str, split: str) -> None:
    """Take in the pictures that a text file lists, relative to it or to the root."""
    folder.lists.add(path)
    for number, given in read_lines(path, folder.where(path), folder.faults) or []:
        where = folder.where(path, number)
        picture = folder.choose(join(dirname(path), given), join(folder.root, given))
        if picture is None:
            folder.faults.add(where, f"{show(given)} leaves the data folder {folder.root}")
        elif not isfile(picture) or splitext(picture)[1].lower() not in PICTURE_ENDINGS:
            folder.faults.add(where, f"no image {show(given)} in {folder.root}; is image_folder right?")
        else:
            folder.add(picture, split, where)


def _read_boxes(folder: _Folder, count: int, absent: str | None) -> IntMatrix:
    """Return the labels, int8 of shape (pictures, count), and warn of pictures without a label file."""
    codes = np.full((len(folder.pictures), count), IGNORE_INDEX if absent == "unknown" else 0, dtype=np.int8)
    missing, owners = 0, dict[str, str]()
    for row, picture in enumerate(folder.pictures):
        path = folder.label_file(picture)
        if owners.setdefault(path, picture) != picture:
            folder.faults.add(folder.where(picture), f"its label file is also that of {folder.where(owners[path])}")
        lines = read_lines(path, folder.where(path), folder.faults)
        if lines is None:
            missing += 1
            codes[row] = IGNORE_INDEX
        for number, line in lines or []:
            words = line.split()
            wrong = _check_words(words, count)
            if wrong:
                folder.faults.add(folder.where(path, number), wrong)
            else:
                codes[row, int(words[0])] = 1
    if missing == len(codes):
        folder.faults.add("", f"none of {missing} pictures has a label file; expected {show(folder.short(path))}")
    elif missing:
        text = "%s: nobody labelled %d of %d pictures: without a label file all their labels are unknown"
        log.warning(text, folder.home, missing, len(codes))
    return codes


def _check_words(words: Sequence[str], count: int) -> str:
    """Return why a line is neither a box (class and 4 numbers) nor a polygon (class and points), or ""."""
    if not re.fullmatch(r"[0-9]{1,9}", words[0]) or int(words[0]) >= count:
        return f"class {show(words[0])} is not a whole number from 0 to {count - 1}"
    if len(words) != 5 and (len(words) < 7 or len(words) % 2 == 0):
        return f"{len(words) - 1} numbers after the class, expected 4 (a box) or an even count from 6 on (a polygon)"
    try:
        finite = all(math.isfinite(float(word)) for word in words[1:])
    except ValueError:
        finite = False
    return "" if finite else f"{show(' '.join(words[1:]))} is not all numbers"


def _note_lone_labels(folder: _Folder) -> None:
    """Note label files whose picture is not there; a picture that data.yaml does not name is there."""
    for labels, pictures in sorted(folder.pairs.items()):
        there = {splitext(path)[0] for path in find_files(pictures, PICTURE_ENDINGS, folder.faults, deep=False)}
        for path in find_files(labels, (".txt",), folder.faults, deep=False):
            other = path in folder.lists or basename(path) in NAME_FILES
            if pictures + splitext(path[len(labels) :])[0] not in there and not other:
                folder.faults.add(folder.where(path), f"no picture of this name in {folder.where(pictures)}")
