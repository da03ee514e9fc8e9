import logging

import numpy as np
import pytest
from fuzzing import broken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.data.loading import load_images
from halflabel.data.readers.voc import looks_like_voc, read_voc
from halflabel.data.source import Source

from PIL import Image  # isort: skip


def looks_like(path):
    return looks_like_voc(Source(str(path)))


UNKNOWN = -100


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
MATRIX = [[UNKNOWN, 1, 0], [0, 0, 0], [1, 0, 1], [UNKNOWN, 0, 0]]
POSITIVE_ONLY = [[UNKNOWN, 1, UNKNOWN], [UNKNOWN] * 3, [1, UNKNOWN, 1], [UNKNOWN] * 3]
LISTS = {"train": "a\nd \n", "val": "b\n\n", "trainval": "a\nb\nc\nd\n", "car_train": "a  1\nd -1\n"}


def write(folder, annotations=None, lists=None, xml="Annotations", pictures="JPEGImages"):
    """Write a data set; the pictures are those of `ANNOTATIONS`, whatever the annotations say."""
    for place in (folder / xml, folder / pictures, folder / "ImageSets" / "Main"):
        place.mkdir(parents=True, exist_ok=True)
    for name, text in (annotations or ANNOTATIONS).items():
        (folder / xml / f"{name}.xml").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, text in (LISTS if lists is None else lists).items():
        path = folder / "ImageSets" / "Main" / f"{name}.txt"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    for name in ANNOTATIONS:
        Image.new("RGB", (8, 8)).save(folder / pictures / f"{name}.jpg")
    return folder


def fault(folder, **options):
    with pytest.raises(HalflabelError) as error:
        read_voc(Source(str(folder), **options))
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(f"{folder}: ")
    return text.removeprefix(f"{folder}: ")


@pytest.mark.parametrize(("absent", "matrix"), [(None, MATRIX), ("negative", MATRIX), ("unknown", POSITIVE_ONLY)])
def test_every_entry_of_the_matrix(tmp_path, absent, matrix):
    write(tmp_path)
    detected = load_images({"path": f"{tmp_path}/", "absent": absent})
    for images in (detected, read_voc(Source(str(tmp_path), absent=absent))):
        assert images.labels.tolist() == matrix
        assert images.labels.dtype == np.int8
        assert images.label_space.names == NAMES
        assert images.column("file_name").tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
        assert images.column("split").tolist() == ["train", "validation", "", "train"]
        assert images.dataset[3]["image"]["path"] == str(tmp_path / "JPEGImages" / "d.jpg")


@pytest.mark.parametrize(
    ("xml", "pictures"), [("Annotations", "images"), ("annotations", "images"), (".", "."), ("Annotations", ".")]
)
def test_the_usual_folders(tmp_path, xml, pictures):
    images = load_images(str(write(tmp_path, xml=xml, pictures=pictures)))
    assert images.labels.tolist() == MATRIX
    assert images.dataset[0]["image"]["path"] == str(tmp_path / pictures / "a.jpg")


def test_pictures_may_lie_elsewhere(tmp_path):
    write(tmp_path / "voc", pictures="../far")
    assert "Annotations/a.xml, filename: no image 'a.jpg'" in fault(tmp_path / "voc")
    images = load_images(str(tmp_path / "voc"), image_folder=str(tmp_path / "far"))
    assert images.labels.tolist() == MATRIX
    with pytest.raises(HalflabelError, match="image_folder 'none': no such folder"):
        read_voc(Source(str(tmp_path / "voc"), image_folder="none"))


def test_annotations_in_subfolders_count_too(tmp_path):
    (tmp_path / "Annotations" / "2007").mkdir(parents=True)
    write(tmp_path, {"2007/a": ANNOTATIONS["a"], "b": ANNOTATIONS["b"]}, {"test": "2007/a\n"})
    images = read_voc(Source(str(tmp_path)))
    assert images.column("file_name").tolist() == ["a.jpg", "b.jpg"]
    assert images.column("split").tolist() == ["test", ""]


def test_pictures_without_annotation_are_counted(tmp_path, caplog):
    write(tmp_path, {"a": ANNOTATIONS["a"]}, {})
    with caplog.at_level(logging.WARNING):
        assert len(read_voc(Source(str(tmp_path)))) == 1
    assert f"3 pictures in {tmp_path}/JPEGImages are left out: they have no XML file" in caplog.text
    caplog.clear()
    read_voc(Source(str(write(tmp_path))))
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
    assert told.startswith("Annotations/c.xml")
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
    text = fault(write(tmp_path, {**ANNOTATIONS, "b": "<b>", "c": annotation("c.jpg", "<object/>"), **broken}))
    assert "Annotations/b.xml: cannot be read as XML" in text
    assert "Annotations/c.xml, object 1: no <name>" in text
    assert "Annotations/e17.xml, filename: no image 'e17.jpg'" in text
    assert text.endswith("; and 7 more faults; is image_folder right?")


def test_a_file_name_with_a_line_break_stays_in_one_line(tmp_path):
    assert r"'Annotations/x\ny.xml': no <filename>" in fault(write(tmp_path, {"x\ny": "<annotation/>"}, {}))


def test_folders_that_hold_nothing(tmp_path):
    assert fault(tmp_path) == "no XML file in Annotations"
    assert fault(tmp_path / "none") == "no such folder"
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
    assert looks_like(tmp_path / "voc")
    assert looks_like(tmp_path / "flat")
    for name in ("other", "voc/JPEGImages", "voc/Annotations/a.xml", "none", "a\0b"):
        assert not looks_like(tmp_path / name)


PIECES = [
    b"<", b">", b"</", b"/>", b"<!DOCTYPE a>", b"<!ENTITY e 'x'>", b"&e;", b"&#0;", b"&#10;", b"\0", b"\xff",
    b"<name>", b"</name>", b"<object>", b"</object>", b"<object/>", b"<filename/>", b"<difficult>", b"\n",
    b"a.jpg", b"../", b"1", b"2", b"dog", b"<?xml version='1.0' encoding='utf-16'?>", b"<![CDATA[", b"<!--",
    b"x" * 300, b"\xef\xbb\xbf",
]  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    a=broken(ANNOTATIONS["a"], PIECES),
    c=broken(ANNOTATIONS["c"], PIECES),
    train=broken(LISTS["train"], PIECES),
    outside=st.booleans(),
)
def test_any_folder_gives_a_result_or_a_fault(tmp_path, a, c, train, outside):
    write(tmp_path, {**ANNOTATIONS, "a": a, "c": c}, {**LISTS, "train": train})
    looks_like(tmp_path)
    try:
        images = read_voc(Source(str(tmp_path), allow_outside=outside))
    except HalflabelError as error:
        text = str(error)
        assert text.startswith(str(tmp_path)) and len(text.splitlines()) == 1  # noqa: PT018
    else:
        assert len(images) == 4
        assert set(np.unique(images.labels)) <= {1, 0, UNKNOWN}
