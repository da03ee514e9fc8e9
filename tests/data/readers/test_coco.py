import copy
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.data.images import guess_split
from halflabel.data.loading import load_images
from halflabel.data.readers.coco import looks_like_coco, read_coco
from halflabel.data.source import Source

from PIL import Image  # isort: skip


def looks_like(path):
    return looks_like_coco(Source(str(path)))


UNKNOWN = -100


def note(number, image, category, **more):
    return {"id": number, "image_id": image, "category_id": category, "bbox": [0, 0, 2, 2], "area": 4.5, **more}


# Ids are neither in order nor without gaps, as in the real files.
COCO = {
    "info": {"year": 2017, "description": "annotations of categories"},
    "images": [{"id": i, "file_name": f"{name}.jpg", "height": 8} for i, name in ((30, "c"), (10, "a"), (20, "b"))],
    "annotations": [
        note(7, 10, 18, iscrowd=0, segmentation=[[1.5, 2, 3, 4, 5, 6]]),
        note(8, 10, 18, iscrowd=0, segmentation=[]),
        note(9, 30, 1, iscrowd=1, segmentation={"counts": [1, 63], "size": [8, 8]}),
        note(11, 30, 18),
    ],
    "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
}
FILES = ["c.jpg", "a.jpg", "b.jpg"]
NAMES = ("dog", "person", "car")
MATRIX = [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
POSITIVE_ONLY = [[1, 1, UNKNOWN], [1, UNKNOWN, UNKNOWN], [UNKNOWN, UNKNOWN, UNKNOWN]]


def federated(number, file, absent, partly):
    url = f"http://images.cocodataset.org/{file}"
    return {"id": number, "coco_url": url, "neg_category_ids": absent, "not_exhaustive_category_ids": partly}


LVIS_FILES = ["train2017/a.jpg", "val2017/a.jpg", "val2017/b.jpg"]
LVIS = {
    "images": [
        federated(1, LVIS_FILES[0], [3], [2]),
        federated(2, LVIS_FILES[1], [1, 2], []),
        federated(3, LVIS_FILES[2], [], [3]),
    ],
    "annotations": [note(1, 1, 2), note(2, 2, 3)],
    "categories": [{"id": 1, "name": "aerosol_can"}, {"id": 2, "name": "banana"}, {"id": 3, "name": "cup"}],
}
LVIS_MATRIX = [[UNKNOWN, 1, 0], [0, 0, 1], [UNKNOWN, UNKNOWN, UNKNOWN]]


def write_pictures(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / name)


def write(folder, content, name="instances_val2017.json"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    write_pictures(tmp_path, *FILES)
    return tmp_path


def changed(content, place, value):
    """A copy in which the entry at a place like "images.1.id" is another, or is left out (...)."""
    result = copy.deepcopy(content)
    *way, last = (int(key) if key.isdigit() else key for key in place.split("."))
    inner = result
    for key in way:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return result


def fault(path, **options):
    with pytest.raises(HalflabelError) as error:
        read_coco(Source(str(path), **options))
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    return text.removeprefix(str(path))


@pytest.mark.parametrize(("absent", "matrix"), [(None, MATRIX), ("negative", MATRIX), ("unknown", POSITIVE_ONLY)])
def test_every_entry_of_the_matrix(folder, absent, matrix):
    path = write(folder, COCO)
    detected = load_images({"path": str(path), "absent": absent})
    for images in (detected, read_coco(Source(str(path), absent=absent))):
        assert images.labels.tolist() == matrix
        assert images.labels.dtype == np.int8
        assert images.label_space.names == NAMES
        assert images.column("file_name").tolist() == FILES
        assert images.column("split").tolist() == ["validation"] * 3
        assert [row["path"] for row in images.dataset["image"][:]] == [str(folder / name) for name in FILES]


def test_lvis_is_federated(tmp_path):
    write_pictures(tmp_path, *LVIS_FILES)
    path = write(tmp_path, LVIS, "annotations/lvis_v1_train.json")
    for images in (load_images(str(path)), read_coco(Source(str(path), absent="unknown"))):
        assert images.labels.tolist() == LVIS_MATRIX
        assert images.label_space.names == ("aerosol_can", "banana", "cup")
        assert images.column("file_name").tolist() == LVIS_FILES
        assert images.column("split").tolist() == ["train"] * 3
        assert images.dataset[1]["image"]["path"] == str(tmp_path / "val2017" / "a.jpg")
    assert "absent 'negative' would be wrong" in fault(path, absent="negative")


def test_lvis_pictures_may_lie_in_one_folder(tmp_path):
    content = changed(LVIS, "images.0.coco_url", "http://images.cocodataset.org/train2017/c.jpg")
    write_pictures(tmp_path / "pictures", "a.jpg", "b.jpg", "c.jpg")
    images = read_coco(Source(str(write(tmp_path, content)), image_folder=str(tmp_path / "pictures")))
    assert images.column("file_name").tolist() == ["c.jpg", "a.jpg", "b.jpg"]


def test_an_image_of_lvis_without_the_lists_is_unknown(tmp_path):
    write_pictures(tmp_path, *LVIS_FILES)
    content = changed(LVIS, "images.1.neg_category_ids", ...)
    content = changed(content, "images.1.not_exhaustive_category_ids", ...)
    images = read_coco(Source(str(write(tmp_path, content))))
    assert images.labels.tolist() == [LVIS_MATRIX[0], [UNKNOWN, UNKNOWN, 1], LVIS_MATRIX[2]]


def test_annotations_may_be_none_at_all(folder):
    path = write(folder, changed(COCO, "annotations", []))
    assert read_coco(Source(str(path))).labels.tolist() == [[0] * 3] * 3
    assert read_coco(Source(str(path), absent="unknown")).labels.tolist() == [[UNKNOWN] * 3] * 3


@pytest.mark.parametrize("file", ["instances_train2017.json", "annotations/instances_train2017.json"])
@pytest.mark.parametrize("pictures", [".", "images", "train2017", "images/train2017"])
def test_pictures_are_found_in_the_usual_places(tmp_path, file, pictures):
    write_pictures(tmp_path / pictures, *FILES)
    images = load_images(str(write(tmp_path, COCO, file)))
    assert images.dataset[0]["image"]["path"] == str(tmp_path / pictures / "c.jpg")


def test_pictures_may_lie_elsewhere(tmp_path):
    write_pictures(tmp_path / "far", *FILES)
    path = write(tmp_path, COCO, "labels/instances_val2017.json")
    assert "image 1 (id 30): no image 'c.jpg'" in fault(path)
    assert len(read_coco(Source(str(path), image_folder=str(tmp_path / "far")))) == 3
    with pytest.raises(HalflabelError, match="no such folder"):
        read_coco(Source(str(path), image_folder=str(tmp_path / "farther")))


def test_only_the_asked_labels(folder):
    images = load_images({"path": str(write(folder, COCO)), "labels": ["car", "dog"]})
    assert images.labels.tolist() == [[0, 1], [0, 1], [0, 0]]


def test_splits_are_told_by_names():
    told = {"instances_train2017": "train", "lvis_v1_val": "validation", "image_info_test-dev2017": "test"}
    silent = ["trainval", "retrain", "latest2017", "train_and_val", "_annotations.coco"]
    assert {name: guess_split(name) for name in (*told, *silent)} == told | dict.fromkeys(silent, "")


HUGE = 10**40
NOT_COCO = [
    ("", ": cannot be read as JSON (Expecting value: line 1 column 1 (char 0))"),
    ('{"images": [', ": cannot be read as JSON (Expecting value: line 1 column 13"),
    ("[" * 100_000, ": cannot be read as JSON (maximum recursion"),
    ('{"images": ' + "1" * 5000, ": cannot be read as JSON (Exceeds the limit"),
    ('{"images": [], "images": []}', ": an object (id None) has the key 'images' twice"),
    ([COCO], ": it is a JSON list, expected an object"),
    (None, ": it is a JSON NoneType, expected an object"),
    ({}, ": no 'images'; a COCO instances file has images, annotations, categories; no 'annotations'"),
]


@pytest.mark.parametrize(("content", "message"), NOT_COCO)
def test_files_of_another_kind(folder, content, message):
    assert message in fault(write(folder, "null" if content is None else content))


FAULTS = [
    ("annotations", ..., ": no 'annotations'"),
    ("images", None, ": 'images' is of type NoneType, expected a list"),
    ("annotations", {"1": {}}, ": 'annotations' is of type dict, expected a list"),
    ("images", [], ": 'images' is empty"),
    ("categories", [], ": 'categories' is empty"),
    ("images.1", None, ": image 2: it is None, expected an object"),
    ("images.1", "a.jpg", ": image 2: it is 'a.jpg', expected an object"),
    ("images.1.id", ..., ": image 2: it has no id"),
    ("images.1.id", "10", ": image 2: the id is '10', expected a whole number"),
    ("images.1.id", 10.0, ": image 2: the id is 10.0, expected a whole number"),
    ("images.1.id", True, ": image 2: the id is True, expected a whole number"),
    ("images.1.id", float("nan"), ": image 2: the id is nan, expected a whole number"),
    ("images.1.id", 30, ": image 2 (id 30): the id is already that of image 1"),
    ("images.1.file_name", ..., ": image 2 (id 10): file_name is None, expected text"),
    ("images.1.file_name", 5, ": image 2 (id 10): file_name is 5, expected text"),
    ("images.1.file_name", " ", ": image 2 (id 10): file_name is empty"),
    ("images.1.file_name", "a\0/b", r": image 2 (id 10): file_name 'a\x00/b' cannot be a file name"),
    ("images.1.file_name", "a" * 300, "aaa' cannot be a file name"),
    ("images.1.file_name", "\ud800/a", r": image 2 (id 10): file_name '\ud800/a' is not valid text"),
    ("images.1.file_name", "c.jpg", ": image 2 (id 10): 'c.jpg' is already the file of image 1 (id 30)"),
    ("images.1.file_name", "./c.jpg", ": image 2 (id 10): './c.jpg' is already the file of image 1 (id 30)"),
    ("images.1.file_name", "z\n.jpg", r": image 2 (id 10): no image 'z\n.jpg'"),
    ("images.1.file_name", "../a.jpg", ": image 2 (id 10): '../a.jpg' leaves the image folder"),
    ("images.1.file_name", "/etc/passwd", ": image 2 (id 10): '/etc/passwd' leaves the image folder"),
    ("annotations.2", 7, ": annotation 3: it is 7, expected an object"),
    ("annotations.2.image_id", ..., ": annotation 3 (id 9): it has no image_id"),
    ("annotations.2.category_id", ..., ": annotation 3 (id 9): it has no category_id"),
    ("annotations.2.image_id", 31, ": annotation 3 (id 9): image_id 31 is not in images"),
    ("annotations.2.image_id", "30", ": annotation 3 (id 9): image_id '30' is not in images"),
    ("annotations.2.image_id", [30], ": annotation 3 (id 9): image_id [30] is not in images"),
    ("annotations.2.category_id", 2, ": annotation 3 (id 9): category_id 2 is not in categories"),
    ("annotations.2.category_id", True, ": annotation 3 (id 9): category_id True is not in categories"),
    ("annotations.2.category_id", 1.0, ": annotation 3 (id 9): category_id 1.0 is not in categories"),
    ("annotations.2.category_id", HUGE, ": annotation 3 (id 9): category_id 10000000000"),
    ("categories.1", [], ": category 2: it is [], expected an object"),
    ("categories.1.id", 18, ": category 2 (id 18): the id is already that of category 1"),
    ("categories.1.name", "dog", ": category 2 (id 1): the name 'dog' is already that of category 1 (id 18)"),
    ("categories.1.name", "", ": category 2 (id 1): the name is empty"),
    ("categories.1.name", None, ": category 2 (id 1): the name is None, expected text"),
    ("categories.1.name", " x", ": category 2 (id 1): the name ' x' has blanks around it"),
    ("categories.1.name", "a\nb", r": category 2 (id 1): the name 'a\nb' has blanks around it or a line break"),
    ("categories.1.name", "\udc00", r": category 2 (id 1): the name '\udc00' is not valid text"),
]


LVIS_FAULTS = [
    ("images.0.neg_category_ids", [9], ": image 1 (id 1), neg_category_ids: category 9 is not in categories"),
    ("images.0.neg_category_ids", [True], ": image 1 (id 1), neg_category_ids: category True is not in categories"),
    ("images.0.neg_category_ids", [[1]], ": image 1 (id 1), neg_category_ids: category [1] is not in categories"),
    ("images.0.neg_category_ids", None, ": image 1 (id 1), neg_category_ids: it is of type NoneType, expected a list"),
    ("images.0.not_exhaustive_category_ids", 5, ", not_exhaustive_category_ids: it is of type int, expected a list"),
    ("images.0.not_exhaustive_category_ids", [3], ": image 1 (id 1): category 3 is in both neg_category_ids and not_"),
    ("images.1.neg_category_ids", [3], ": annotation 2 (id 2): 'cup' is in neg_category_ids of image 2, and yet"),
    ("images.0.coco_url", 5, ": image 1 (id 1): coco_url is 5, expected text"),
    ("images.0.coco_url", ..., ": image 1 (id 1): file_name is None, expected text"),
    ("images.0.coco_url", "http://x/train2017/z.jpg", ": image 1 (id 1): no image 'z.jpg'"),
    ("images.0.coco_url", "http://x/train2017/", ": image 1 (id 1): no image ''"),
    ("images.0.coco_url", "http://x/../out.jpg", ": image 1 (id 1): '../out.jpg' leaves the image folder"),
]


TABLE = [(COCO, *row) for row in FAULTS] + [(LVIS, *row) for row in LVIS_FAULTS]


@pytest.mark.parametrize(("content", "place", "value", "message"), TABLE)
def test_faults_name_file_and_place(tmp_path, content, place, value, message):
    write_pictures(tmp_path / "in", *FILES, *LVIS_FILES, "../out.jpg")
    assert message in fault(write(tmp_path / "in", changed(content, place, value)))


def test_all_faults_are_told_at_once(folder):
    content = changed(COCO, "images.0.file_name", "z.jpg")
    content = changed(content, "categories.2.name", "dog")
    content["annotations"] += [{"id": 100 + i, "image_id": 99, "category_id": 18} for i in range(30)]
    text = fault(write(folder, content))
    assert "category 3 (id 3): the name 'dog' is already that of category 1 (id 18)" in text
    assert "annotation 5 (id 100): image_id 99 is not in images" in text
    assert text.count("is not in images") == 19
    assert text.endswith("; and 12 more faults; is image_folder right?")


def test_a_file_that_cannot_be_read(tmp_path):
    assert ": no such file" in fault(tmp_path / "none.json")
    assert ": is a directory" in fault(tmp_path)
    (tmp_path / "latin.json").write_bytes(b'{"images": "\xe9"}')
    assert "cannot be read as JSON ('utf-8' codec can't decode byte 0xe9" in fault(tmp_path / "latin.json")


def test_a_byte_order_mark_and_other_scripts(folder):
    path = folder / "train.json"
    path.write_text(json.dumps(changed(COCO, "categories.0.name", "犬 🐕"), ensure_ascii=False), "utf-8-sig")
    assert load_images(str(path)).label_space.names == ("犬 🐕", "person", "car")


def test_outside_the_folder_only_where_allowed(tmp_path):
    write_pictures(tmp_path, "in/c.jpg", "out/a.jpg", "in/b.jpg")
    for name in ("../out/a.jpg", str(tmp_path / "out" / "a.jpg")):
        path = write(tmp_path / "in", changed(COCO, "images.1.file_name", name))
        assert f": image 2 (id 10): {name!r} leaves the image folder" in fault(path)
        images = load_images({"path": str(path), "allow_outside": True})
        assert images.labels.tolist() == MATRIX
        assert images.dataset[1]["image"]["path"].endswith("out/a.jpg")


def test_detection(folder, monkeypatch):
    assert looks_like(write(folder, COCO))
    assert looks_like(write(folder, json.dumps(COCO, indent=1)))
    monkeypatch.setattr("halflabel.data.readers.coco.CHUNK", 15)  # many keys lie across two chunks
    assert looks_like(write(folder, COCO))
    assert not looks_like(write(folder, {"images": [], "annotations": []}))
    assert not looks_like(write(folder, ""))
    assert not looks_like(folder)
    assert not looks_like(folder / "none.json")
    assert not looks_like(folder / "a\0b")
    with pytest.raises(HalflabelError, match="not of COCO or LVIS"):
        load_images(str(write(folder, {"images": []})))


def test_presence_is_what_pycocotools_finds(tmp_path):
    api = pytest.importorskip("pycocotools.coco", reason="the oracle, which comes with mlcpl")
    rng = np.random.default_rng(3)
    categories = [{"id": int(i), "name": f"class {i}"} for i in rng.permutation(90)[:12]]
    images = [{"id": int(i), "file_name": f"{i}.jpg"} for i in rng.permutation(500)[:40]]
    annotations = [
        {"id": i + 1, "image_id": images[rng.integers(40)]["id"], "category_id": categories[rng.integers(12)]["id"],
         "iscrowd": int(rng.integers(2)), "area": 1, "bbox": [0, 0, 1, 1]}
        for i in range(150)
    ]  # fmt: skip
    write_pictures(tmp_path, *(image["file_name"] for image in images))
    path = write(tmp_path, {"images": images, "annotations": annotations, "categories": categories})
    oracle = api.COCO(str(path))
    expected = [
        [int(bool(oracle.getAnnIds(imgIds=[image["id"]], catIds=[category["id"]]))) for category in categories]
        for image in images
    ]
    assert 0 < np.mean(expected) < 1
    assert read_coco(Source(str(path))).labels.tolist() == expected


# Anything a JSON file may hold, most of all what is nearly right.
LEAVES = st.sampled_from(
    [None, True, False, 0, 1, -1, 3, 10, 18, 30, HUGE, 1.0, 0.5, float("nan"), float("inf"), "", "a.jpg", "dog", "30",
     "../a.jpg", "/a.jpg", "\0", "\ud800", "a\nb", "x" * 300, "http://x/y/a.jpg"]
)  # fmt: skip
KEYS = st.sampled_from(["id", "image_id", "category_id", "file_name", "name", "coco_url", "neg_category_ids"])
VALUES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=5
)


def places(content, way=""):
    """Yield the place of every entry."""
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in entries:
        yield f"{way}{key}"
        yield from places(value, f"{way}{key}.")


@st.composite
def broken(draw):
    content = draw(st.sampled_from([COCO, LVIS]))
    for _ in range(draw(st.integers(0, 2))):
        content = changed(content, draw(st.sampled_from([*places(content)])), draw(VALUES | st.just(...)))
    data = bytearray(json.dumps(content).encode())
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=broken(), absent=st.sampled_from([None, "negative", "unknown"]), outside=st.booleans())
def test_any_file_gives_a_result_or_a_fault(folder, data, absent, outside):
    if not (folder / "val2017").exists():
        write_pictures(folder, *LVIS_FILES)
    path = folder / "train.json"
    path.write_bytes(data)
    looks_like(path)
    try:
        images = read_coco(Source(str(path), absent=absent, allow_outside=outside))
    except HalflabelError as error:
        text = str(error)
        assert text.startswith(str(path)) and len(text.splitlines()) == 1  # noqa: PT018
    else:
        assert images.labels.shape == (len(images), len(images.label_space))
        assert set(np.unique(images.labels)) <= {1, 0, UNKNOWN}
