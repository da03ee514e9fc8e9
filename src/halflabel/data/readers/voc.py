"""Pascal VOC: an XML file a picture that lists its objects, and lists of the pictures of each split."""

import logging
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from os.path import join, normpath, splitext
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from ...model.errors import HalflabelError
from ...model.labels import IGNORE_INDEX
from ..images import AnnotatedImages, build_images, check_split
from ..source import Faults, Source, check_name, image_folder, locate_images, show

log = logging.getLogger(__name__)
PICTURE_ENDINGS = (
    ".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff", ".mpo", ".jp2", ".dng", ".pfm",
    ".heic", ".heif", ".avif",
)  # fmt: skip
ANNOTATION_FOLDERS = ("Annotations", "annotations")
IMAGE_FOLDERS = ("JPEGImages", "images")
XML = (".xml",)


def find_files(folder: str | Path, endings: Collection[str], faults: Faults, deep: bool = True) -> list[str]:
    """Return the full paths of files with one of these endings, sorted, without hidden ones; none if no such folder.

    Args:
        folder: Where to look.
        endings: Like ".jpg", in lower case.
        faults: Where to note a folder that cannot be read, or is a link: links may go round in circles.
        deep: Look into its subfolders too.
    """
    found = []

    def note(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            faults.add(show(str(error.filename)), f"cannot be read ({error.strerror})")

    for parent, folders, names in os.walk(folder, onerror=note):
        found += [join(parent, name) for name in names if _has_ending(name, endings)]
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
        for name in folders:
            if os.path.islink(join(parent, name)):
                faults.add(show(join(parent, name)), "a link to a folder is not followed")
    return sorted(found)


def _has_ending(name: str, endings: Collection[str]) -> bool:
    return splitext(name)[1].lower() in endings and not name.startswith(".")


def read_lines(path: str | Path, where: str, faults: Faults) -> list[tuple[int, str]] | None:
    """Return the lines of a text file that are not blank, with their numbers from 1; None if there is no such file."""
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        faults.add(where, f"cannot be read ({error.strerror})")
        return []
    except UnicodeDecodeError as error:
        faults.add(where, f"it is not UTF-8 text ({error.reason}, byte {error.start + 1})")
        return []
    return [(number, line.strip()) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


@dataclass
class _Annotation:
    """One XML file: its place under the source, the picture, and the objects' names -> any is not difficult."""

    where: str
    key: str
    file_name: str = ""
    objects: dict[str, bool] = field(default_factory=dict)


def read_voc(source: Source) -> AnnotatedImages:
    """Read a Pascal VOC folder (http://host.robots.ox.ac.uk/pascal/VOC, development kit, section 4).

    XML files lie in `Annotations` and pictures in `JPEGImages` or `images`, or side by side. A name with an object that
    is not `difficult` is 1; with difficult objects only it is unknown, as the challenge leaves these out; one without
    objects is 0, or unknown where `absent` is `unknown`. Labels are the sorted names of all objects. Splits come from
    `ImageSets/Main/train.txt`, `val.txt` and `test.txt`; an image in none of these has no split.

    Returns:
        The images in the order of the XML files' names; labels int8 of shape (images, names).

    Raises:
        HalflabelError: With file and place (objects counted from 1), the faults of all files at once: no well-formed
            XML or a document type in it, no or two file names, an object without a name, a picture that is not there,
            outside the image folder or of two files, a listed image without XML or in two lists; and without any XML
            file or object.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise HalflabelError(f"{root}: no such folder")
    faults = Faults(root)
    folder = next((root / name for name in ANNOTATION_FOLDERS if (root / name).is_dir()), root)
    found = find_files(folder, XML, faults, deep=folder != root)
    annotations = [_read_xml(root, folder, Path(path), faults) for path in found]
    if not annotations and not len(faults):
        raise HalflabelError(f"{root}: no XML file in {'Annotations' if folder == root else folder.name}")
    splits = _read_split_lists(root, folder, annotations, faults)
    seen: dict[str, str] = {}
    pictured = [one for one in annotations if one.file_name]  # of the others a fault is noted
    for one in pictured:
        first = seen.setdefault(normpath(one.file_name), one.where)
        if first != one.where:
            faults.add(one.where, f"filename {show(one.file_name)} is already the file of {first}")
    files = [one.file_name for one in pictured]
    usual = [place for place in (*(root / name for name in IMAGE_FOLDERS), root, folder) if place.is_dir()]
    pictures = image_folder(usual[0] / "any", files, source.image_folder, *usual)
    paths = locate_images(pictures, files, lambda i: f"{pictured[i].where}, filename", faults, source.allow_outside)
    faults.raise_any()
    names = sorted({name for one in annotations for name in one.objects})
    if not names:
        raise HalflabelError(f"{root}: no object in any of {len(annotations)} XML files, so there are no labels")
    rest = {name for name in os.listdir(pictures) if _has_ending(name, PICTURE_ENDINGS)} - seen.keys()
    if rest:
        log.warning("%s: %d pictures in %s are left out: they have no XML file", root, len(rest), pictures)
    codes = np.full((len(files), len(names)), IGNORE_INDEX if source.absent == "unknown" else 0, dtype=np.int8)
    for row, one in zip(codes, annotations, strict=True):
        for name, certain in one.objects.items():
            row[names.index(name)] = 1 if certain else IGNORE_INDEX
    return build_images(files, paths, codes, names, splits)


def looks_like_voc(source: Source) -> bool:
    """Tell whether a folder, or `Annotations` in it, holds an XML file, the first found being a VOC annotation."""
    for folder in (*(join(source.path, name) for name in ANNOTATION_FOLDERS), source.path):
        try:
            with os.scandir(folder) as entries:
                found = next((entry.path for entry in entries if _has_ending(entry.name, XML)), None)
            if found is not None:
                with open(found, "rb") as file:
                    start = file.read(4096)
                return b"<annotation>" in start or b"<annotation " in start
        except (OSError, ValueError):  # ValueError: a path with a null character
            continue
    return False


class _Refused(Exception):  # noqa: N818 - never seen outside
    """The file declares a document type."""


class _Builder(ElementTree.TreeBuilder):
    """A tree without document types: these could define entities that grow to gigabytes or name other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        """Refuse."""
        raise _Refused


def _read_xml(root: Path, folder: Path, path: Path, faults: Faults) -> _Annotation:
    where = path.relative_to(root).as_posix()
    key = path.relative_to(folder).as_posix()[: -len(".xml")]
    annotation = _Annotation(where if where.isprintable() else show(where), key)
    parser = ElementTree.XMLParser(target=_Builder())
    try:
        parser.feed(path.read_bytes())
        tree = parser.close()
    except _Refused:
        faults.add(annotation.where, "it has a <!DOCTYPE>, which annotations do without; entities are not expanded")
    except OSError as error:
        faults.add(annotation.where, f"cannot be read ({error.strerror})")
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
        faults.add(annotation.where, f"cannot be read as XML ({error})")
    else:
        if tree.tag == "annotation":
            _read_tree(tree, annotation, faults)
        else:
            faults.add(annotation.where, f"the root element is {show(tree.tag)}, expected 'annotation'")
    return annotation


def _read_tree(tree: ElementTree.Element, annotation: _Annotation, faults: Faults) -> None:
    annotation.file_name = _text(tree, "filename", annotation.where, faults)
    wrong = check_name(annotation.file_name, file=True)
    if annotation.file_name and wrong:
        faults.add(annotation.where, f"filename {wrong}")
        annotation.file_name = ""
    for i, element in enumerate(tree.findall("object")):
        where = f"{annotation.where}, object {i + 1}"
        name = _text(element, "name", where, faults)
        difficult = _text(element, "difficult", where, faults, default="0")
        if name and check_name(name):
            faults.add(where, f"the name {check_name(name)}")
        if difficult not in ("0", "1", ""):
            faults.add(where, f"difficult is {show(difficult)}, expected 0 or 1")
        annotation.objects[name] = annotation.objects.get(name, False) or difficult == "0"


def _text(parent: ElementTree.Element, tag: str, where: str, faults: Faults, default: str = "") -> str:
    """Return the text of the only child of a tag; "" and a fault noted where there is none, several or no text."""
    found = parent.findall(tag)
    if not found and default:
        return default
    text = (found[0].text or "").strip() if len(found) == 1 and not len(found[0]) else ""
    if not text:
        what = "no" if not found else "no text in" if len(found) == 1 else f"{len(found)} times"
        faults.add(where, f"{what} <{tag}>")
    return text


def _read_split_lists(root: Path, folder: Path, annotations: Sequence[_Annotation], faults: Faults) -> list[str]:
    """Return the split of each annotation; `car_train.txt` lists for one class and `trainval.txt` joins two lists."""
    splits = {annotation.key: "" for annotation in annotations}
    listed: dict[str, str] = {}
    inside = "" if folder == root else f"{folder.name}/"
    for name in ("train", "val", "test"):
        where = f"ImageSets/Main/{name}.txt"
        for number, key in read_lines(root / where, where, faults) or []:
            place = f"{where}, line {number}"
            if key in listed:
                faults.add(place, f"{show(key)} is already in {listed[key]}")
            elif key not in splits:
                faults.add(place, f"nobody annotated {show(key)}: there is no {show(f'{inside}{key}.xml')}")
            else:
                splits[key] = check_split(name)
            listed.setdefault(key, place)
    return [splits[annotation.key] for annotation in annotations]
