"""Several sources become one: the union of their labels, and one row for a picture that stands in more than one."""

import contextlib
import hashlib
import logging
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..model.errors import HalflabelError, did_you_mean, shortlist
from ..model.labels import IGNORE_INDEX, UNCERTAIN, IntMatrix, LabelCounts, LabelSpace, count_labels
from .images import AnnotatedImages
from .source import Faults, Source

log = logging.getLogger(__name__)
CONTRADICTIONS = ("error", "unknown", "first")
SHOWN = 5
"""So many names of one picture are told."""
SAMPLE = 4096
"""So many bytes are compared first: most pictures of equal size differ there, and need not be read whole."""


@dataclass
class MergeReport:
    """What a merge found: nothing is joined, dropped or overruled without standing here.

    Attributes:
        joined: How many rows were joined to a row of an earlier source.
        contradictions: What pictures are yes and no to, in one source or several.
        similar_names: Groups of near-identical label names, which are kept apart.
        parts: The sources, as each alone knows them.
    """

    joined: int = 0
    contradictions: list[str] = field(default_factory=list)
    similar_names: list[tuple[str, ...]] = field(default_factory=list)
    parts: Sequence[AnnotatedImages] = ()

    @property
    def sources(self) -> dict[str, tuple[tuple[str, ...], LabelCounts]]:
        """Per source its label names and how much of them it knows; counted when asked for, which takes time."""
        counted: dict[str, tuple[tuple[str, ...], LabelCounts]] = {}
        for part in self.parts:
            titles = part.column("source")
            for title in dict.fromkeys(titles):
                rows, name, times = titles == title, str(title), 1
                while name in counted:
                    times += 1
                    name = f"{title} ({times})"
                counted[name] = part.label_space.names, count_labels(part.labels if rows.all() else part.labels[rows])
        return counted


def map_labels(images: AnnotatedImages, source: Source) -> AnnotatedImages:
    """Rename and drop labels by the source's `label_map`; see `map_codes`."""
    if not source.label_map:
        return images
    codes, space = map_codes(images.labels, images.label_space, source)
    return AnnotatedImages(images.dataset, space, codes)


def map_codes(codes: IntMatrix, space: LabelSpace, source: Source) -> tuple[IntMatrix, LabelSpace]:
    """Rename and drop columns of codes, shape (n, num_labels), by the source's `label_map`.

    Several labels of one new name are one question: yes if any is yes, no if all are no, uncertain if any is uncertain
    and none yes, else unknown.

    Raises:
        HalflabelError: If a label does not exist, or none is left.
    """
    if not source.label_map:
        return codes, space
    for name in source.label_map:
        if name not in space.names:
            nearest = did_you_mean(name, space.names)
            raise HalflabelError(f"{source.title}: label_map names no label {name!r}{nearest}")
    columns: dict[str, list[int]] = {}
    for i, name in enumerate(space.names):
        new = source.label_map.get(name, name)
        if new is not None:
            columns.setdefault(new, []).append(i)
    if not columns:
        raise HalflabelError(f"{source.title}: label_map drops every label")
    return np.stack([_any_of(codes[:, places]) for places in columns.values()], axis=1), LabelSpace(columns)


def _any_of(answers: IntMatrix) -> IntMatrix:
    """Combine answers of shape (n, k) to (n,)."""
    if answers.shape[1] == 1:
        return answers[:, 0]
    result = np.where((answers == 0).all(axis=1), 0, IGNORE_INDEX)
    result = np.where((answers == UNCERTAIN).any(axis=1), UNCERTAIN, result)
    return np.where((answers == 1).any(axis=1), 1, result).astype(np.int8)


def similar_names(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Return groups of names that differ only in case, plural, blanks, hyphens and underscores."""
    alike = defaultdict(list)
    for name in names:
        key = re.sub(r"[\W_]+", "", unicodedata.normalize("NFKC", name).casefold()) or name
        alike[key.removesuffix("s") if len(key) > 3 else key].append(name)
    return [tuple(group) for group in alike.values() if len(group) > 1]


def stack(parts: Sequence[AnnotatedImages]) -> AnnotatedImages:
    """Put images below one another; a label that a part does not have is unknown there."""
    if len(parts) == 1:
        return parts[0]
    space = LabelSpace(dict.fromkeys(name for part in parts for name in part.label_space.names))
    labels = np.full((sum(map(len, parts)), len(space)), IGNORE_INDEX, dtype=np.int8)
    start = 0
    for part in parts:
        places = [space.index(name) for name in part.label_space.names]
        labels[start : start + len(part), places] = part.labels
        start += len(part)
    return AnnotatedImages(datasets.concatenate_datasets([part.dataset for part in parts]), space, labels)


def merge(parts: Sequence[AnnotatedImages], contradictions: str = "error") -> tuple[AnnotatedImages, MergeReport]:
    """Put sources together.

    A label that a source does not have is unknown there. A picture that stands in several sources (the same file, or
    equal content) keeps its row in the first of them, with every answer any of them knows; groups that it is in become
    one. A picture that stands twice in one source alone keeps both rows. Groups get their source's name in front.

    Args:
        parts: The sources, in order; their `source` column says which is which.
        contradictions: What becomes of an entry that is yes in one source and no in another: `error`, `unknown`
            whatever a third source says, or the `first` source's answer. What one source says of two rows of its own
            is listed and stays.

    Raises:
        HalflabelError: On contradictions under `error` (all of them), or an image that sources put in different splits.
    """
    if contradictions not in CONTRADICTIONS:
        nearest = did_you_mean(contradictions, CONTRADICTIONS)
        raise HalflabelError(f"contradictions: {contradictions!r} is none of {', '.join(CONTRADICTIONS)}{nearest}")
    whole = stack(parts)
    report = MergeReport(similar_names=similar_names(whole.label_space.names), parts=parts)
    for group in report.similar_names:
        log.warning("labels with near-identical names are kept apart: %s; label_map can join them", shortlist(group))
    if len(parts) == 1:
        return whole, report
    part_of = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    first = same_images(parts)
    kept = part_of == part_of[first]  # the rows of the first source that has a picture
    faults = Faults("data")
    labels = _join_labels(whole, first, kept, contradictions, report, faults)
    texts = _join_texts(whole, first, kept, faults)
    faults.raise_any()
    report.joined = int((~kept).sum())
    joined = AnnotatedImages(whole.dataset, whole.label_space, labels)
    for name, column in texts.items():
        joined = joined.with_column(name, column)
    return joined if report.joined == 0 else joined.select(np.flatnonzero(kept)), report


def repeat_contradictions(images: AnnotatedImages, first: NDArray[np.int64]) -> list[str]:
    """Return what equal pictures within one data set are yes and no to; `first` is what `same_images` gives."""
    report = MergeReport()
    _join_labels(images, first, np.ones(len(first), dtype=bool), "first", report, Faults("data"))
    return report.contradictions


def _repeated(first: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Give the rows of each picture that has several, in order."""
    order = np.argsort(first, kind="stable")
    starts = np.flatnonzero(np.diff(first[order], prepend=-1))
    for start, end in zip(starts, [*starts[1:], len(first)], strict=True):
        if end - start > 1:
            yield order[start:end]


def _join_labels(
    whole: AnnotatedImages,
    first: NDArray[np.int64],
    kept: NDArray[np.bool_],
    policy: str,
    report: MergeReport,
    faults: Faults,
) -> IntMatrix:
    """Return the labels with what all rows of a picture know in the rows that stay."""
    labels = whole.labels.copy()
    files, sources, names = whole.column("file_name"), whole.column("source"), whole.label_space.names
    for rows in _repeated(first):
        answers, stay = whole.labels[rows], kept[rows]
        yes, no, uncertain = ((answers == code).any(axis=0) for code in (1, 0, UNCERTAIN))
        joined = np.select([yes, no, uncertain], [1, 0, UNCERTAIN], IGNORE_INDEX).astype(np.int8)
        other = np.logical_or.reduce(answers[~stay] >= 0)  # another source knows
        for column in np.flatnonzero(yes & no):
            given = answers[:, column]
            text = f"{names[column]!r} is {_say(given, sources[rows])}"
            report.contradictions.append(f"{_name(files[rows])}: {text}")
            joined[column] = given[given >= 0][0] if policy == "first" else IGNORE_INDEX
            if policy == "error" and other[column]:
                faults.add(_name(files[rows]), text)
        # What rows of one source say stays as each says it, where no other source has an answer.
        own = (yes & no & ~other) | stay.all() | ((policy == "first") & (answers[stay] >= 0))
        labels[rows[stay]] = np.where(own, answers[stay], joined)
    return labels


def _name(files: NDArray[np.object_]) -> str:
    """Return what to call a picture of these files."""
    names = [*dict.fromkeys(map(repr, files))]
    more = len(names) - SHOWN
    return " = ".join(names[:SHOWN]) + (f" = {more} more" if more > 0 else "")


def _say(answers: NDArray[np.int8], sources: NDArray[np.object_]) -> str:
    """Return what is said, and who says it."""
    who = {code: dict.fromkeys(sources[answers == code]) for code in dict.fromkeys(answers[answers >= 0].tolist())}
    told = "; ".join(f"{code} in {' and '.join(names)}" for code, names in who.items())
    return f"{' and '.join(map(str, who))} ({told})"


def _join_texts(
    whole: AnnotatedImages, first: NDArray[np.int64], kept: NDArray[np.bool_], faults: Faults
) -> dict[str, NDArray[np.object_]]:
    """Return split, group and source of all rows, those that stay with what the rows joined to them say."""
    splits, groups, sources = (whole.column(name) for name in ("split", "group", "source"))
    files = whole.column("file_name")
    groups = np.array([f"{s}: {g}" if g else "" for s, g in zip(sources, groups, strict=True)], dtype=object)
    tied: dict[str, str] = {}  # group -> an earlier one that it is tied to
    for rows in _repeated(first):
        stay, others = rows[kept[rows]], rows[~kept[rows]]
        if not len(others):
            continue
        told = [split for split in dict.fromkeys(splits[others]) if split]
        clash = sorted({*told, *splits[stay]} - {""})
        if told and len(clash) > 1:
            where = f"{_name(files[rows])} ({' and '.join(dict.fromkeys(sources[rows]))})"
            faults.add(where, f"the same picture is in the splits {' and '.join(clash)}")
        named = [group for group in dict.fromkeys(groups[rows]) if group]
        for group in named[1:]:
            one, other = _root(tied, named[0]), _root(tied, group)
            if one != other:
                tied[other] = one
        joined_sources = " + ".join(dict.fromkeys(name for text in sources[rows] for name in text.split(" + ")))
        for row in stay:
            splits[row] = splits[row] or next(iter(told), "")
            groups[row] = groups[row] or next(iter(named), "")
            sources[row] = joined_sources
    groups = np.array([_root(tied, group) for group in groups], dtype=object)
    return {"split": splits, "group": groups, "source": sources}


def _root(tied: dict[str, str], group: str) -> str:
    while group in tied:
        tied[group] = tied.get(tied[group], tied[group])  # half the way for whoever asks next
        group = tied[group]
    return group


def same_images(parts: Sequence[AnnotatedImages]) -> NDArray[np.int64]:
    """Return for each row of the concatenation the first row of the same picture: the same file, or equal content.

    Being the same carries over: a row whose file is that of one row and whose content is that of another joins them.

    Raises:
        HalflabelError: If a picture cannot be read; it is named.
    """
    pictures = [picture for part in parts for picture in _pictures(part)]
    first = np.arange(len(pictures))
    files: dict[Hashable, int] = {}
    sizes = defaultdict(list)
    for row, picture in enumerate(pictures):
        file, size = picture.identify()
        if file is not None:
            first[row] = files.setdefault(file, row)
        if first[row] == row and size:  # empty files are no pictures, and say nothing of one another
            sizes[size].append(row)
    for size, rows in sizes.items():
        middle = max(0, (size - SAMPLE) // 2)
        for like in _alike(rows, lambda row, at=middle: pictures[row].read(at, SAMPLE)):  # type: ignore[misc]
            for same in _alike(like, lambda row: hashlib.blake2b(pictures[row].read()).digest()):
                first[same] = same[0]
    return first[first]  # the first row of a file may be the same as an earlier row


def _alike(rows: Sequence[int], key: Callable[[int], bytes]) -> Iterator[list[int]]:
    """Give the groups of several rows with the same key."""
    groups = defaultdict(list)
    for row in rows if len(rows) > 1 else ():
        groups[key(row)].append(row)
    yield from (group for group in groups.values() if len(group) > 1)


@dataclass(frozen=True)
class _Picture:
    """An encoded picture: `content`, a pyarrow scalar, or a file where this is null."""

    name: str
    path: str | None
    content: Any

    def identify(self) -> tuple[Hashable, int | None]:
        """Return what only this file has (None: it is no file), and its size (None: it is not at hand)."""
        if self.content.is_valid:
            return None, len(self.content.as_buffer())
        if self.path is not None and "://" in self.path:
            return self.path, None
        with self._readable():
            found = os.stat(self.path or "")
        return (found.st_dev, found.st_ino), found.st_size  # links to one file have these in common

    def read(self, start: int = 0, count: int = -1) -> bytes:
        """Return `count` bytes from `start` on, or all."""
        if self.content.is_valid:
            whole: bytes = self.content.as_py()
            return whole[start : start + count] if count >= 0 else whole
        with self._readable(), open(self.path or "", "rb") as file:  # noqa: PTH123 - of a text, many times
            file.seek(start)
            return file.read(count)

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            raise HalflabelError(f"image {self.name!r} cannot be read ({getattr(error, 'strerror', error)})") from error


def _pictures(images: AnnotatedImages) -> Iterator[_Picture]:
    table = images.dataset.select_columns(["image", "file_name"]).with_format("arrow")[:]
    records = table.column("image")
    contents: pa.ChunkedArray = pc.struct_field(records, "bytes")  # as buffers, which copy nothing
    paths = pc.struct_field(records, "path").to_pylist()
    yield from map(_Picture, table.column("file_name").to_pylist(), paths, contents)
