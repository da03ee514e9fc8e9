"""COCO instances JSON, and LVIS: per image the categories that are there, and in LVIS those that are surely not."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.errors import HalflabelError, reason_of
from ...model.labels import IGNORE_INDEX, IntMatrix
from ..images import AnnotatedImages, build_images, guess_split
from ..source import Faults, Source, check_name, check_names, image_folder, locate_images, show

LISTS = ("images", "annotations", "categories")
FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
KEPT = frozenset({*LISTS, *FEDERATED, "id", "image_id", "category_id", "name", "file_name", "coco_url"})
CHUNK = 1 << 22


def read_coco(source: Source) -> AnnotatedImages:
    """Read an instances file of COCO (https://cocodataset.org/#format-data) or LVIS (https://www.lvisdataset.org).

    A category with any annotation in an image, crowds included, is 1. Any other is 0 in COCO, which is annotated
    exhaustively, unless `absent` is `unknown`. LVIS is federated: an image's `neg_category_ids` are 0, and whatever
    else has no annotation is unknown. Label order is that of `categories`; the split is taken from the file's own name
    (`instances_val2017.json`).

    Returns:
        The images in the order of the file; labels int8 of shape (images, categories).

    Raises:
        HalflabelError: With file and place (counted from 1, and the id), all faults at once: entries of the wrong kind,
            ids or names given twice, an annotation of an image or a category that is not in the file, an annotated
            category that LVIS has as absent, a picture that is not there or outside the image folder.
    """
    path = Path(source.path)
    faults = Faults(path)
    images, annotations, categories = _read_lists(path, faults)
    faults.raise_any()
    columns = _index("category", categories, faults)
    named = [(_where("category", i, entry), entry) for i, entry in enumerate(categories) if isinstance(entry, dict)]
    names: list[Any] = [entry.get("name") for _, entry in named]
    check_names(names, [where for where, _ in named], faults)
    rows = _index("image", images, faults)
    federated = any(isinstance(image, dict) and not image.keys().isdisjoint(FEDERATED) for image in images)
    if federated and source.absent == "negative":
        raise HalflabelError(
            f"{path}: absent 'negative' would be wrong: LVIS was annotated for some categories an image "
            "(neg_category_ids); leave absent out"
        )
    unknown = federated or source.absent == "unknown"
    labels = np.full((len(images), len(categories)), IGNORE_INDEX if unknown else 0, dtype=np.int8)
    if federated:
        _mark_absent(labels, images, columns, faults)
    places = _place(annotations, rows, columns, faults)
    if federated and not len(faults):  # a faulty annotation has no place of its own

        def tell(i: int) -> tuple[str, str]:
            row, column = places[i]
            text = f"{names[column]!r} is in neg_category_ids of image {row + 1}, and yet annotated"
            return _where("annotation", i, annotations[i]), text

        faults.add_rows(np.flatnonzero(labels[places[:, 0], places[:, 1]] == 0), tell)
    labels[places[:, 0], places[:, 1]] = 1
    folder, files, wheres = _choose_files(path, source.image_folder, images, faults)
    paths = locate_images(folder, files, wheres.__getitem__, faults, source.allow_outside)
    faults.raise_any()
    return build_images(files, paths, labels, names, [guess_split(path.stem)] * len(files))


def looks_like_coco(source: Source) -> bool:
    """Tell whether a file holds the three keys of a COCO file; of a large one the end is read before the middle."""
    path, missing = Path(source.path), {f'"{name}"'.encode() for name in LISTS}
    step = CHUNK - max(map(len, missing))  # a key may lie across two chunks
    if path.suffix != ".json":
        return False
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            for start in (0, max(0, size - CHUNK), *range(step, size, step)):
                file.seek(start)
                text = file.read(CHUNK)
                missing -= {key for key in missing if key in text}
                if not missing:
                    return True
    except (OSError, ValueError):  # ValueError: a path with a null character
        return False
    return False


def _read_lists(path: Path, faults: Faults) -> list[list[Any]]:
    """Return images, annotations and categories, reduced to the keys that matter here."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_reduce)
    except HalflabelError as error:
        raise HalflabelError(f"{path}: {error}") from error
    except OSError as error:
        raise HalflabelError(f"{path}: {(error.strerror or 'cannot be read').lower()}") from error
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a number too long, or too deep
        raise HalflabelError(f"{path}: cannot be read as JSON ({reason_of(error)})") from error
    if not isinstance(content, dict):
        raise HalflabelError(f"{path}: it is a JSON {type(content).__name__}, expected an object of {', '.join(LISTS)}")
    lists = []
    for name in LISTS:
        value = content.get(name)
        if name not in content:
            faults.add("", f"no {name!r}; a COCO instances file has {', '.join(LISTS)}")
        elif not isinstance(value, list):
            faults.add("", f"{name!r} is of type {type(value).__name__}, expected a list")
        elif not value and name != "annotations":
            faults.add("", f"{name!r} is empty")
        lists.append(value if isinstance(value, list) else [])
    return lists


def _reduce(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Keep of an object what matters: outlines are nine tenths of a file, and are let go as soon as they are read."""
    kept = [pair for pair in pairs if pair[0] in KEPT]
    reduced = dict(kept)
    if len(reduced) != len(kept):
        keys = [key for key, _ in kept]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise HalflabelError(f"an object (id {show(reduced.get('id'))}) has the key {twice!r} twice")
    return reduced


def _where(kind: str, position: int, entry: Mapping[str, Any]) -> str:
    return f"{kind} {position + 1}" + (f" (id {show(entry['id'])})" if "id" in entry else "")


def _is_known(value: object, positions: Mapping[int, int]) -> bool:
    return type(value) is int and value in positions  # True and 1.0 equal 1 and would be found among the ids


def _index(kind: str, entries: Sequence[Any], faults: Faults) -> dict[int, int]:
    """Return the position of each id, and note entries that have none of their own."""
    positions: dict[int, int] = {}
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict):
            faults.add(f"{kind} {i + 1}", f"it is {show(entry)}, expected an object")
        elif "id" not in entry:
            faults.add(f"{kind} {i + 1}", "it has no id")
        elif type(entry["id"]) is not int:
            faults.add(f"{kind} {i + 1}", f"the id is {show(entry['id'])}, expected a whole number")
        elif entry["id"] in positions:
            faults.add(_where(kind, i, entry), f"the id is already that of {kind} {positions[entry['id']] + 1}")
        else:
            positions[entry["id"]] = i
    return positions


def _mark_absent(labels: IntMatrix, images: Sequence[Any], columns: Mapping[int, int], faults: Faults) -> None:
    """Set the categories that LVIS has as absent to 0, and note lists that cannot be right."""
    for row, image in enumerate(images):
        if not isinstance(image, dict):
            continue
        found: dict[str, set[int]] = {}
        for key in FEDERATED:
            given = image.get(key, [])
            where = f"{_where('image', row, image)}, {key}"
            if not isinstance(given, list):
                faults.add(where, f"it is of type {type(given).__name__}, expected a list")
                continue
            unknown = [value for value in given if not _is_known(value, columns)]
            for value in unknown:
                faults.add(where, f"category {show(value)} is not in categories")
            found[key] = set() if unknown else set(given)
        absent, partly = (found.get(key, set()) for key in FEDERATED)
        for value in sorted(absent & partly):
            faults.add(_where("image", row, image), f"category {value} is in both {' and '.join(FEDERATED)}")
        labels[row, [columns[value] for value in absent]] = 0


def _place(
    annotations: Sequence[Any], rows: Mapping[int, int], columns: Mapping[int, int], faults: Faults
) -> NDArray[np.int64]:
    """Return the row and the column of each annotation, shape (annotations, 2), and note those that have none."""
    places = np.zeros((len(annotations), 2), dtype=np.int64)
    keys = (("image_id", rows, "images"), ("category_id", columns, "categories"))
    wrong: dict[int, None] = {}
    for i, annotation in enumerate(annotations):
        for side, (key, known, _) in enumerate(keys):
            value: Any = annotation.get(key) if isinstance(annotation, dict) else None
            if _is_known(value, known):
                places[i, side] = known[value]
            else:
                wrong[i] = None

    def tell(i: int) -> tuple[str, str]:
        annotation = annotations[i]
        if not isinstance(annotation, dict):
            return f"annotation {i + 1}", f"it is {show(annotation)}, expected an object"
        texts = [f"it has no {key}" for key, _, _ in keys if key not in annotation]
        for key, known, kind in keys:
            if key in annotation and not _is_known(annotation[key], known):
                texts.append(f"{key} {show(annotation[key])} is not in {kind}")
        return _where("annotation", i, annotation), " and ".join(texts)

    faults.add_rows(wrong, tell)
    return places


def _choose_files(
    path: Path, given: str | None, images: Sequence[Any], faults: Faults
) -> tuple[Path, list[str], list[str]]:
    """Return the image folder, and the file name of each image with its place; LVIS has but an address."""
    choices: dict[int, list[str]] = {}
    for i, image in enumerate(images):
        if not isinstance(image, dict):
            continue
        key = "coco_url" if "file_name" not in image and "coco_url" in image else "file_name"
        wrong = check_name(image.get(key), file=key == "file_name")
        if wrong:
            faults.add(_where("image", i, image), f"{key} {wrong}")
        elif key == "file_name":
            choices[i] = [image[key]]
        else:
            parts = image[key].split("/")
            choices[i] = ["/".join(parts[-2:]), parts[-1]]
    usual = [path.parent, path.parent / "images", path.parent.parent, path.parent.parent / "images"]
    usual += [folder / path.stem.rpartition("_")[2] for folder in usual]
    folder = image_folder(path, [name for names in choices.values() for name in names], given, *usual)
    files: list[str] = []
    wheres: list[str] = []
    seen: dict[str, str] = {}
    for i, names in choices.items():
        file = next((name for name in names[:-1] if os.path.isfile(folder / name)), names[-1])
        where = _where("image", i, images[i])
        first = seen.setdefault(os.path.normpath(file), where)
        if first != where:
            faults.add(where, f"{file!r} is already the file of {first}")
        files.append(file)
        wheres.append(where)
    return folder, files, wheres
