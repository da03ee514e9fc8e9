"""A folder of images with metadata.csv, .jsonl or .parquet, in it or in a folder for each split."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ...model.errors import HalflabelError
from ..images import AnnotatedImages, check_split
from ..merging import stack
from ..source import Source
from .hub_labels import find_labels
from .table import attach_images
from .tabular import read_columns

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


def find_metadata(folder: Path) -> list[tuple[str, Path]]:
    """Return the metadata files of an image folder: its own with split "", or else those of its split folders."""
    own = [("", folder / name) for name in METADATA if (folder / name).is_file()]
    if own or not folder.is_dir():
        return own
    found = []
    for file in sorted(file for name in METADATA for file in folder.glob(f"*/{name}")):
        try:
            found.append((check_split(file.parent.name), file))
        except HalflabelError:
            continue
    return found


def read_imagefolder(source: Source) -> AnnotatedImages:
    """Read an image folder; https://huggingface.co/docs/datasets/image_dataset describes it.

    Labels stand in the metadata as `hub_labels.find_labels` finds them. The split is that of a column `split`, or else
    of the folder: where every file name begins with the name of a split, or each split folder has its own metadata.

    Raises:
        HalflabelError: If there is no metadata or several; else as for a wide table or a data set.
    """
    folder = Path(source.path)
    found = find_metadata(folder)
    if not found:
        raise HalflabelError(f"{folder}: no {', '.join(METADATA[:-1])} or {METADATA[-1]}")
    folders = [file.parent for _, file in found]
    if len(set(folders)) < len(folders):
        raise HalflabelError(f"{folder}: several metadata files: {', '.join(file.name for _, file in found)}")
    return stack([_read_metadata(source, split, file) for split, file in found])


def _read_metadata(source: Source, split: str, metadata: Path) -> AnnotatedImages:
    columns = read_columns(metadata)
    columns.need("file_name")
    matrix, names = find_labels(source, columns, {})
    root = source.image_folder or str(metadata.parent)
    images = attach_images(replace(source, image_folder=root), columns, matrix, names)
    files = list(images.column("file_name"))
    if split:  # the same file name may be in several folders
        images = images.with_column("file_name", [f"{metadata.parent.name}/{name}" for name in files])
    if "split" in columns.names:
        return images
    return images.with_column("split", [split] * len(images) if split else _folder_splits(files))


def _folder_splits(files: Sequence[str]) -> list[str]:
    """Return the splits that the first folders of file names say, none if one of them is no split."""
    try:
        return [check_split(file.partition("/")[0]) if "/" in file else "" for file in files]
    except HalflabelError:
        return [""] * len(files)
