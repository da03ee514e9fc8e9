import logging
from functools import partial

import numpy as np
import pytest
import reading
from reading import check, draw, error_of, write_files

from halflabel.data.loading import load_images
from halflabel.data.readers.voc import looks_like_voc, read_voc
from halflabel.data.source import Source

fault = partial(reading.fault, read_voc)
X = -100


def read(folder, **options):
    return read_voc(Source(str(folder), **options))


def thing(name, difficult=None):
    told = "" if difficult is None else f"<difficult>{difficult}</difficult>"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    return f"<object>{part}<name>{name}</name>{told}<bndbox><xmin>1</xmin></bndbox></object>"


def annotation(file_name, *things):
    return f"<annotation><folder>VOC</folder><filename>{file_name}</filename>{''.join(things)}</annotation>"


ANNOTATIONS = {
    "a": annotation("a.jpg", thing("dog", 0), thing("car", 1), thing("dog", 1)),
    "b": annotation("b.jpg"),
    "c": annotation("c.jpg", thing("person"), thing("car", 1), thing("\n  car\n", 0)),
    "d": annotation("d.jpg", thing("car", 1), thing("car", 1)),
}
NAMES = ("car", "dog", "person")
MATRIX = [[X, 1, 0], [0, 0, 0], [1, 0, 1], [X, 0, 0]]
POSITIVE_ONLY = [[X, 1, X], [X] * 3, [1, X, 1], [X] * 3]
LISTS = {"train": "a\nd \n", "val": "b\n\n", "trainval": "a\nb\nc\nd\n", "car_train": "a  1\nd -1\n"}


def write(folder, annotations=ANNOTATIONS, lists=LISTS, xml="Annotations", pictures="JPEGImages"):
    """Write a data set; the pictures are those of `ANNOTATIONS`, whatever the annotations say."""
    write_files(folder, {f"{xml}/{name}.xml": text for name, text in annotations.items()})
    write_files(folder, {f"ImageSets/Main/{name}.txt": text for name, text in lists.items()})
    draw(folder / pictures, *(f"{name}.jpg" for name in ANNOTATIONS))
    return folder


@pytest.mark.parametrize(("absent", "matrix"), [(None, MATRIX), ("negative", MATRIX), ("unknown", POSITIVE_ONLY)])
def test_every_entry_of_the_matrix(tmp_path, absent, matrix):
    write(tmp_path)
    for images in (load_images({"path": f"{tmp_path}/", "absent": absent}), read(tmp_path, absent=absent)):
        assert images.labels.dtype == np.int8
        check(
            images, labels=matrix, names=NAMES, file_name=["a.jpg", "b.jpg", "c.jpg", "d.jpg"],
            split=["train", "validation", "", "train"],
            paths=[str(tmp_path / "JPEGImages" / f"{name}.jpg") for name in "abcd"],
        )  # fmt: skip


@pytest.mark.parametrize(
    ("xml", "pictures"), [("Annotations", "images"), ("annotations", "images"), (".", "."), ("Annotations", ".")]
)
def test_the_usual_folders(tmp_path, xml, pictures):
    images = load_images(str(write(tmp_path, xml=xml, pictures=pictures)))
    check(images, labels=MATRIX, paths=[str(tmp_path / pictures / f"{name}.jpg") for name in "abcd"])


def test_pictures_may_lie_elsewhere(tmp_path):
    write(tmp_path / "voc", pictures="../far")
    assert "Annotations/a.xml, filename: no image 'a.jpg'" in fault(tmp_path / "voc")
    images = load_images(str(tmp_path / "voc"), image_folder=str(tmp_path / "far"))
    assert images.labels.tolist() == MATRIX
    assert images.labels.tolist() == MATRIX
    assert "image_folder 'none': no such folder" in error_of(read, tmp_path / "voc", image_folder="none")


def test_annotations_in_subfolders_count_too(tmp_path):
    write(tmp_path, {"2007/a": ANNOTATIONS["a"], "b": ANNOTATIONS["b"]}, {"test": "2007/a\n"})
    check(read(tmp_path), file_name=["a.jpg", "b.jpg"], split=["test", ""])


def test_pictures_without_annotation_are_counted(tmp_path, caplog):
    write(tmp_path, {"a": ANNOTATIONS["a"]}, {})
    with caplog.at_level(logging.WARNING):
        assert len(read(tmp_path)) == 1
    assert f"3 pictures in {tmp_path}/JPEGImages are left out: they have no XML file" in caplog.text
    caplog.clear()
    read(write(tmp_path))
    assert caplog.text == ""


LAUGHS = '<!DOCTYPE annotation [<!ENTITY a "ha">' + "".join(
    f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)  # fmt: skip
OUTSIDE = '<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/passwd">]>' + annotation("c.jpg", thing("&e;"))
WIDE = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE annotation>' + ANNOTATIONS["c"]
DOUBLED = annotation("c.jpg", "<object><name>x</name><name>y</name></object>")
CHILD = annotation("c.jpg", "<object><name>x<b/></name></object>")
FAULTS = [
    ("", "cannot be read as XML (no element found: line 1, column 0)"),
    (ANNOTATIONS["c"][:-5], "cannot be read as XML (unclosed token: line"),
    ("<annotation>&e;</annotation>", "cannot be read as XML (undefined entity: line 1, column 12)"),
    ("{}", "cannot be read as XML (not well-formed (invalid token): line 1, column 0)"),
    (ANNOTATIONS["c"].replace("VOC", "\xe9").encode("latin-1"), "cannot be read as XML (not well-formed (invalid tok"),
    ('<?xml version="1.0" encoding="klingon"?><annotation/>', "cannot be read as XML ("),
    (f"{LAUGHS}]>{annotation('c.jpg', thing('&j;'))}", "it has a <!DOCTYPE>"),
    (OUTSIDE, "it has a <!DOCTYPE>"),
    (WIDE.encode("utf-16"), "it has a <!DOCTYPE>"),
    ("<annotations/>", "the root element is 'annotations', expected 'annotation'"),
    ("<annotation/>", "no <filename>"),
    ("<annotation><filename/></annotation>", "no text in <filename>"),
    (annotation("c.jpg</filename><filename>c.jpg"), "2 times <filename>"),
    (annotation("z.jpg"), "filename: no image 'z.jpg'"),
    (annotation("z&#10;z.jpg"), r"filename: no image 'z\nz.jpg'"),
    (annotation("x" * 300), "filename 'xxx"),
    (annotation("../a.jpg"), "filename: '../a.jpg' leaves the image folder"),
    (annotation("/etc/passwd"), "filename: '/etc/passwd' leaves the image folder"),
    (annotation("a.jpg"), "filename 'a.jpg' is already the file of Annotations/a.xml"),
    (annotation("c.jpg", thing("x"), "<object/>"), "object 2: no <name>"),
    (annotation("c.jpg", thing(" ")), "object 1: no text in <name>"),
    (annotation("c.jpg", thing("a&#10;b")), r"object 1: the name 'a\nb' has blanks around it or a line break"),
    (DOUBLED, "object 1: 2 times <name>"),
    (CHILD, "object 1: no text in <name>"),
    (annotation("c.jpg", thing("x"), thing("x", "maybe")), "object 2: difficult is 'maybe', expected 0 or 1"),
    (annotation("c.jpg", thing("x", "")), "object 1: no text in <difficult>"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), FAULTS)
def test_faults_name_file_and_place(tmp_path, text, message):
    told = fault(write(tmp_path, {**ANNOTATIONS, "c": text}, {}))
    assert told.startswith(": Annotations/c.xml")
    assert message in told


LIST_FAULTS = [
    ({"test": "a\nz\n"}, "ImageSets/Main/test.txt, line 2: nobody annotated 'z': there is no 'Annotations/z.xml'"),
    ({"val": "a.jpg\n"}, "ImageSets/Main/val.txt, line 1: nobody annotated 'a.jpg'"),
    ({"train": "a\n", "val": "\na\n"}, "ImageSets/Main/val.txt, line 2: 'a' is already in ImageSets/Main/train.txt, l"),
    ({"train": "a\na\n"}, "ImageSets/Main/train.txt, line 2: 'a' is already in ImageSets/Main/train.txt, line 1"),
    ({"train": b"a\n\xff\n"}, "ImageSets/Main/train.txt: it is not UTF-8 text (invalid start byte, byte 3)"),
]


@pytest.mark.parametrize(("lists", "message"), LIST_FAULTS)
def test_faults_of_lists(tmp_path, lists, message):
    assert message in fault(write(tmp_path, lists=lists))


def test_the_faults_of_all_files_are_told_at_once(tmp_path):
    broken = {f"e{i:02}": annotation(f"e{i}.jpg", thing("x")) for i in range(25)}
    broken |= {"b": "<b>", "c": annotation("c.jpg", "<object/>"), "x\ny": "<annotation/>"}
    text = fault(write(tmp_path, {**ANNOTATIONS, **broken}))
    assert "Annotations/b.xml: cannot be read as XML" in text
    assert "Annotations/c.xml, object 1: no <name>" in text
    assert r"'Annotations/x\ny.xml': no <filename>" in text  # in one line
    assert "Annotations/e16.xml, filename: no image 'e16.jpg'" in text
    assert text.endswith("; and 8 more faults; is image_folder right?")


def test_folders_that_hold_nothing(tmp_path):
    assert fault(tmp_path) == ": no XML file in Annotations"
    assert fault(tmp_path / "none") == ": no such folder"
    assert "no object in any of 1 XML files" in fault(write(tmp_path, {"b": ANNOTATIONS["b"]}, {}))


def test_a_linked_folder_is_told(tmp_path):
    write(tmp_path)
    (tmp_path / "Annotations" / "again").symlink_to(tmp_path / "Annotations")
    assert "Annotations/again': a link to a folder is not followed" in fault(tmp_path)


def test_outside_the_folder_only_where_allowed(tmp_path):
    write(tmp_path / "voc", {**ANNOTATIONS, "c": ANNOTATIONS["c"].replace("c.jpg", "../c.jpg")})
    (tmp_path / "voc" / "JPEGImages" / "c.jpg").rename(tmp_path / "voc" / "c.jpg")
    assert "Annotations/c.xml, filename: '../c.jpg' leaves the image folder" in fault(tmp_path / "voc")
    images = load_images({"path": str(tmp_path / "voc"), "allow_outside": True})
    assert images.labels.tolist() == MATRIX


def test_detection(tmp_path):
    write(tmp_path / "voc")
    write(tmp_path / "flat", xml=".", pictures=".")
    write(tmp_path / "other", {"a": "<annotations/>"})
    for name in ("voc", "flat", "other", "voc/JPEGImages", "voc/Annotations/a.xml", "none", "a\0b"):
        assert looks_like_voc(Source(str(tmp_path / name))) == (name in ("voc", "flat"))
