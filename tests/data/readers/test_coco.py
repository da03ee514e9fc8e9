import copy
import json
from functools import partial

import numpy as np
import pytest
import reading
from reading import check, draw, error_of, write_files

from halflabel.data.images import guess_split
from halflabel.data.loading import load_images
from halflabel.data.readers.coco import looks_like_coco, read_coco
from halflabel.data.source import Source

fault = partial(reading.fault, read_coco)
X = -100


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
POSITIVE_ONLY = [[1, 1, X], [1, X, X], [X, X, X]]


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
LVIS_MATRIX = [[X, 1, 0], [0, 0, 1], [X, X, X]]


def read(path, **options):
    return read_coco(Source(str(path), **options))


def write(folder, content, name="instances_val2017.json"):
    write_files(folder, {name: content if isinstance(content, str) else json.dumps(content)})
    return folder / name


@pytest.fixture
def folder(tmp_path):
    return draw(tmp_path, *FILES)


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


@pytest.mark.parametrize(("absent", "matrix"), [(None, MATRIX), ("negative", MATRIX), ("unknown", POSITIVE_ONLY)])
def test_every_entry_of_the_matrix(folder, absent, matrix):
    path = write(folder, COCO)
    for images in (load_images({"path": str(path), "absent": absent}), read(path, absent=absent)):
        assert images.labels.dtype == np.int8
        paths = [str(folder / name) for name in FILES]
        check(images, labels=matrix, names=NAMES, file_name=FILES, split=["validation"] * 3, paths=paths)


def test_lvis_is_federated(tmp_path):
    draw(tmp_path, *LVIS_FILES)
    path = write(tmp_path, LVIS, "annotations/lvis_v1_train.json")
    for images in (load_images(str(path)), read(path, absent="unknown")):
        check(images, labels=LVIS_MATRIX, names=("aerosol_can", "banana", "cup"), file_name=LVIS_FILES,
              split=["train"] * 3, paths=[str(tmp_path / name) for name in LVIS_FILES])  # fmt: skip
    assert "absent 'negative' would be wrong" in fault(path, absent="negative")
    content = changed(changed(LVIS, "images.1.neg_category_ids", ...), "images.1.not_exhaustive_category_ids", ...)
    check(read(write(tmp_path, content)), labels=[LVIS_MATRIX[0], [X, X, 1], LVIS_MATRIX[2]])


def test_lvis_pictures_may_lie_in_one_folder(tmp_path):
    content = changed(LVIS, "images.0.coco_url", "http://images.cocodataset.org/train2017/c.jpg")
    draw(tmp_path / "pictures", "a.jpg", "b.jpg", "c.jpg")
    images = read(write(tmp_path, content), image_folder=str(tmp_path / "pictures"))
    check(images, file_name=["c.jpg", "a.jpg", "b.jpg"])


def test_annotations_may_be_none_at_all(folder):
    path = write(folder, changed(COCO, "annotations", []))
    check(read(path), labels=[[0] * 3] * 3)
    check(read(path, absent="unknown"), labels=[[X] * 3] * 3)


@pytest.mark.parametrize("file", ["instances_train2017.json", "annotations/instances_train2017.json"])
@pytest.mark.parametrize("pictures", [".", "images", "train2017", "images/train2017"])
def test_pictures_are_found_in_the_usual_places(tmp_path, file, pictures):
    draw(tmp_path / pictures, *FILES)
    images = load_images(str(write(tmp_path, COCO, file)))
    check(images, paths=[str(tmp_path / pictures / name) for name in FILES])


def test_pictures_may_lie_elsewhere(tmp_path):
    draw(tmp_path / "far", *FILES)
    path = write(tmp_path, COCO, "labels/instances_val2017.json")
    assert "image 1 (id 30): no image 'c.jpg'" in fault(path)
    assert len(read(path, image_folder=str(tmp_path / "far"))) == 3
    assert "no such folder" in error_of(read, path, image_folder=str(tmp_path / "farther"))


def test_only_the_asked_labels(folder):
    images = load_images({"path": str(write(folder, COCO)), "labels": ["car", "dog"]})
    check(images, labels=[[0, 1], [0, 1], [0, 0]])


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
    ("images.1", "a.jpg", ": image 2: it is 'a.jpg', expected an object"),
    ("images.1.id", ..., ": image 2: it has no id"),
    ("images.1.id", "10", ": image 2: the id is '10', expected a whole number"),
    ("images.1.id", 10.0, ": image 2: the id is 10.0, expected a whole number"),
    ("images.1.id", True, ": image 2: the id is True, expected a whole number"),
    ("images.1.id", 30, ": image 2 (id 30): the id is already that of image 1"),
    ("images.1.file_name", ..., ": image 2 (id 10): file_name is None, expected text"),
    ("images.1.file_name", " ", ": image 2 (id 10): file_name is empty"),
    ("images.1.file_name", "a\0/b", r": image 2 (id 10): file_name 'a\x00/b' cannot be a file name"),
    ("images.1.file_name", "a" * 300, "aaa' cannot be a file name"),
    ("images.1.file_name", "\ud800/a", r": image 2 (id 10): file_name '\ud800/a' is not valid text"),
    ("images.1.file_name", "c.jpg", ": image 2 (id 10): 'c.jpg' is already the file of image 1 (id 30)"),
    ("images.1.file_name", "./c.jpg", ": image 2 (id 10): './c.jpg' is already the file of image 1 (id 30)"),
    ("images.1.file_name", "../a.jpg", ": image 2 (id 10): '../a.jpg' leaves the image folder"),
    ("annotations.2", 7, ": annotation 3: it is 7, expected an object"),
    ("annotations.2.image_id", ..., ": annotation 3 (id 9): it has no image_id"),
    ("annotations.2.category_id", ..., ": annotation 3 (id 9): it has no category_id"),
    ("annotations.2.image_id", "30", ": annotation 3 (id 9): image_id '30' is not in images"),
    ("annotations.2.image_id", [30], ": annotation 3 (id 9): image_id [30] is not in images"),
    ("annotations.2.category_id", True, ": annotation 3 (id 9): category_id True is not in categories"),
    ("annotations.2.category_id", 1.0, ": annotation 3 (id 9): category_id 1.0 is not in categories"),
    ("annotations.2.category_id", HUGE, ": annotation 3 (id 9): category_id 10000000000"),
    ("categories.1.id", 18, ": category 2 (id 18): the id is already that of category 1"),
    ("categories.1.name", "dog", ": category 2 (id 1): the name 'dog' is already that of category 1 (id 18)"),
    ("categories.1.name", "", ": category 2 (id 1): the name is empty"),
    ("categories.1.name", None, ": category 2 (id 1): the name is None, expected text"),
    ("categories.1.name", "a\nb", r": category 2 (id 1): the name 'a\nb' has blanks around it or a line break"),
    ("categories.1.name", "\udc00", r": category 2 (id 1): the name '\udc00' is not valid text"),
]
LVIS_FAULTS = [
    ("images.0.neg_category_ids", [True], ": image 1 (id 1), neg_category_ids: category True is not in categories"),
    ("images.0.neg_category_ids", [[1]], ": image 1 (id 1), neg_category_ids: category [1] is not in categories"),
    ("images.0.neg_category_ids", None, ": image 1 (id 1), neg_category_ids: it is of type NoneType, expected a list"),
    ("images.0.not_exhaustive_category_ids", 5, ", not_exhaustive_category_ids: it is of type int, expected a list"),
    ("images.0.not_exhaustive_category_ids", [3], ": image 1 (id 1): category 3 is in both neg_category_ids and not_"),
    ("images.1.neg_category_ids", [3], ": annotation 2 (id 2): 'cup' is in neg_category_ids of image 2, and yet"),
    ("images.0.coco_url", 5, ": image 1 (id 1): coco_url is 5, expected text"),
    ("images.0.coco_url", ..., ": image 1 (id 1): file_name is None, expected text"),
    ("images.0.coco_url", "http://x/train2017/z.jpg", ": image 1 (id 1): no image 'z.jpg'"),
    ("images.0.coco_url", "http://x/../out.jpg", ": image 1 (id 1): '../out.jpg' leaves the image folder"),
]
TABLE = [(COCO, *row) for row in FAULTS] + [(LVIS, *row) for row in LVIS_FAULTS]


@pytest.mark.parametrize(("content", "place", "value", "message"), TABLE)
def test_faults_name_file_and_place(tmp_path, content, place, value, message):
    draw(tmp_path / "in", *FILES, *LVIS_FILES, "../out.jpg")
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
    draw(tmp_path, "in/c.jpg", "out/a.jpg", "in/b.jpg")
    for name in ("../out/a.jpg", str(tmp_path / "out" / "a.jpg")):
        path = write(tmp_path / "in", changed(COCO, "images.1.file_name", name))
        assert f": image 2 (id 10): {name!r} leaves the image folder" in fault(path)
        images = load_images({"path": str(path), "allow_outside": True})
        check(images, labels=MATRIX)
        assert images.dataset[1]["image"]["path"].endswith("out/a.jpg")


def test_detection(folder, monkeypatch):
    def looks_like(path):
        return looks_like_coco(Source(str(path)))

    assert looks_like(write(folder, json.dumps(COCO, indent=1)))
    monkeypatch.setattr("halflabel.data.readers.coco.CHUNK", 15)  # many keys lie across two chunks
    assert looks_like(write(folder, COCO))
    for path in (write(folder, {"images": [], "annotations": []}), folder, folder / "none.json", folder / "a\0b"):
        assert not looks_like(path)
    assert "not of COCO or LVIS" in error_of(load_images, str(folder / "instances_val2017.json"))


def test_presence_is_what_pycocotools_finds(tmp_path):
    api = pytest.importorskip("pycocotools.coco", reason="the oracle, which comes with mlcpl")
    rng = np.random.default_rng(3)
    categories = [{"id": int(i), "name": f"class {i}"} for i in rng.permutation(90)[:12]]
    images = [{"id": int(i), "file_name": f"{i}.jpg"} for i in rng.permutation(500)[:40]]
    annotations = [
        note(i + 1, images[rng.integers(40)]["id"], categories[rng.integers(12)]["id"], iscrowd=int(rng.integers(2)))
        for i in range(150)
    ]
    draw(tmp_path, *(image["file_name"] for image in images))
    path = write(tmp_path, {"images": images, "annotations": annotations, "categories": categories})
    oracle = api.COCO(str(path))
    expected = [
        [int(bool(oracle.getAnnIds(imgIds=[image["id"]], catIds=[category["id"]]))) for category in categories]
        for image in images
    ]
    assert 0 < np.mean(expected) < 1
    check(read(path), labels=expected)
