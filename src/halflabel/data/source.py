"""How a recipe or the command line names one source of annotated pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from ..model.errors import HalflabelError, did_you_mean
from .images import check_split

FORMATS = (
    "street_scenes",
    "table",
    "long",
    "open_images",
    "chexpert",
    "coco",
    "voc",
    "yolo",
    "imagefolder",
    "datasets",
)
ABSENT = ("negative", "unknown")
MISSING_IMAGES = ("error", "skip")
_KINDS: dict[str, Any] = {
    "labels": Sequence,
    "uncertain_values": Sequence,
    "label_map": Mapping,
    "allow_outside": bool,
}
"""The kind of each key of a source that is not a text."""


@dataclass(frozen=True)
class Source:
    """One source.

    Attributes:
        path: A file, a folder, the name of a data set on the Hub, or `street_scenes`.
        format: One of `FORMATS`; None: found out from the path.
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

    def __post_init__(self) -> None:
        """Check the words."""
        for key, words in (("format", FORMATS), ("absent", ABSENT), ("missing_images", MISSING_IMAGES)):
            value = getattr(self, key)
            if value is not None and value not in words:
                nearest = did_you_mean(str(value), words)
                raise HalflabelError(f"source {self.path}: {key} {value!r} is none of {', '.join(words)}{nearest}")
        if self.split is not None:
            object.__setattr__(self, "split", check_split(self.split))

    @property
    def title(self) -> str:
        """What the source is called in reports."""
        return self.name or self.path


def parse_source(given: Any) -> Source:  # noqa: ANN401 - from a file
    """Read one source of a recipe: a path, or a mapping of `Source`'s keys.

    Raises:
        HalflabelError: On an unknown key (with the nearest one), a value of the wrong kind, or no path.
    """
    if isinstance(given, Source):
        return given
    if isinstance(given, str):
        return Source(given)
    if not isinstance(given, Mapping):
        raise HalflabelError(f"data: {given!r} is neither a path nor a mapping with a path")
    keys = [field.name for field in fields(Source)]
    for key in given:
        if key not in keys:
            raise HalflabelError(f"data: unknown key {key!r} of a source{did_you_mean(str(key), keys)}")
    if not isinstance(given.get("path"), str) or not given["path"]:
        raise HalflabelError(f"data: the source {dict(given)!r} has no 'path'")
    values = {key: value for key, value in given.items() if value is not None}  # null: as the default has it
    for key, value in values.items():
        kind = _KINDS.get(key, str)
        if not isinstance(value, kind) or (kind is Sequence and isinstance(value, str)):
            expected = {str: "a text", bool: "true or false", Mapping: "a mapping"}.get(kind, "a list")
            raise HalflabelError(f"data: {key} of {given['path']} is {value!r}, expected {expected}")
        if kind is Sequence:
            values[key] = tuple(str(one) for one in value)
    for name, new in values.get("label_map", {}).items():
        if not isinstance(name, str) or not isinstance(new, str | None):
            raise HalflabelError(
                f"data: label_map of {given['path']} has {name!r}: {new!r}, expected names (quote those like 'no')"
            )
    return Source(**values)
