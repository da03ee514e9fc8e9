"""Which rows hold the same picture: the same file, or files of equal content."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from ..model.errors import HalflabelError
from .images import AnnotatedImages

SAMPLE = 4096
"""So many bytes are compared first: most pictures of equal size differ there, and need not be read whole."""


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
        start = max(0, (size - SAMPLE) // 2)
        for like in _alike(rows, lambda row, start=start: pictures[row].read(start, SAMPLE)):  # type: ignore[misc]
            for same in _alike(like, lambda row: hashlib.blake2b(pictures[row].read()).digest()):
                first[same] = same[0]
    return first[first]  # the first row of a file may be the same as an earlier row


def _alike(rows: Sequence[int], key: Callable[[int], bytes]) -> Iterable[list[int]]:
    """Return the groups of several rows with the same key."""
    groups = defaultdict(list)
    for row in rows if len(rows) > 1 else ():
        groups[key(row)].append(row)
    return [group for group in groups.values() if len(group) > 1]


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
        try:
            found = os.stat(self.path or "")
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error
        return (found.st_dev, found.st_ino), found.st_size  # links to one file have these in common

    def read(self, start: int = 0, count: int = -1) -> bytes:
        """Return `count` bytes from `start` on, or all."""
        if self.content.is_valid:
            whole: bytes = self.content.as_py()
            return whole[start : start + count] if count >= 0 else whole
        try:
            with open(self.path or "", "rb") as file:  # noqa: PTH123 - of a text, many times
                file.seek(start)
                return file.read(count)
        except OSError as error:
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> HalflabelError:
        return HalflabelError(f"image {self.name!r} cannot be read ({getattr(error, 'strerror', error)})")


def _pictures(images: AnnotatedImages) -> Iterator[_Picture]:
    table = images.dataset.select_columns(["image", "file_name"]).with_format("arrow")[:]
    records = table.column("image")
    contents: pa.ChunkedArray = pc.struct_field(records, "bytes")  # as buffers, which copy nothing
    paths = pc.struct_field(records, "path").to_pylist()
    yield from map(_Picture, table.column("file_name").to_pylist(), paths, contents)
