from functools import partial

import numpy as np
import pytest
import reading
import yaml
from reading import check, draw, error_of, write_files

from halflabel.data.loading import load_images
from halflabel.data.readers.yolo import looks_like_yolo, read_yolo
from halflabel.data.source import Source

fault = partial(reading.fault, read_yolo)
X = -100
BOX = "0.5 0.5 0.25 1"
LABELS = {
    "train/a": f"1 {BOX}\n1 {BOX}\n",
    "train/b": f"\n0 {BOX}\r\n  2 0 0 1e-1 0.1 .5 1\n",
    "train/sub/c": "",
    "val/d": f"2 {BOX}",
}
PICTURES = ["train/a.jpg", "train/b.png", "train/sub/c.jpg", "val/d.jpg", "val/e.jpg"]  # nobody labelled e
NAMES = ("dog", "person", "car")
MATRIX = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1], [X] * 3]
POSITIVE_ONLY = [[X, 1, X], [1, X, 1], [X] * 3, [X, X, 1], [X] * 3]
SPLITS = ["train"] * 3 + ["validation"] * 2
CONTENT = {"train": "images/train", "val": "images/val", "nc": 3, "names": list(NAMES)}
NAMES_TEXT = "dog\nperson\ncar\n"


def read(folder, **options):
    return read_yolo(Source(str(folder), **options))


def write(folder, content=CONTENT, labels=LABELS, pictures=PICTURES, texts=None):
    """Write a data set: data.yaml with this content, label files, pictures, and other text files."""
    draw(folder / "images", *pictures)
    files = {f"labels/{name}.txt": text for name, text in labels.items()} | (texts or {})
    if content is not None:
        files["data.yaml"] = content if isinstance(content, str | bytes) else yaml.safe_dump(content, sort_keys=False)
    return write_files(folder, files)


@pytest.mark.parametrize(("absent", "matrix"), [(None, MATRIX), ("negative", MATRIX), ("unknown", POSITIVE_ONLY)])
def test_every_entry_of_the_matrix(tmp_path, caplog, absent, matrix):
    write(tmp_path)
    sources = [{"path": path, "absent": absent} for path in (f"{tmp_path}/", str(tmp_path / "data.yaml"))]
    for images in (*map(load_images, sources), read(tmp_path, absent=absent)):
        assert images.labels.dtype == np.int8
        check(images, labels=matrix, names=NAMES, file_name=[f"images/{name}" for name in PICTURES], split=SPLITS,
              paths=[str(tmp_path / "images" / name) for name in PICTURES])  # fmt: skip
    assert caplog.text.count("nobody labelled 1 of 5 pictures") == 3


def test_names_may_be_a_mapping_in_any_order(tmp_path):
    write(tmp_path, {**CONTENT, "names": {2: "car", 0: "dog", 1: "person"}})
    check(read(tmp_path), names=NAMES, labels=MATRIX)


@pytest.mark.parametrize("file", ["classes.txt", "obj.names", "names.txt", "labels/classes.txt"])
def test_folders_with_a_file_of_names(tmp_path, file):
    images = load_images(str(write(tmp_path, None, texts={file: NAMES_TEXT})))
    check(images, names=NAMES, labels=MATRIX, split=SPLITS)


def test_folders_that_tell_no_split(tmp_path):
    write(tmp_path, None, {"a": f"0 {BOX}", "b": ""}, ["a.jpg", "b.jpg"], {"classes.txt": "dog\n"})
    check(read(tmp_path), labels=[[1], [0]], split=["", ""])


def test_a_folder_per_split_as_roboflow_exports_it(tmp_path):
    content = {"train": "../train/images", "val": "../valid/images", "names": ["dog"], "roboflow": {"version": 1}}
    files = ["train/images/train.jpg", "valid/images/valid.jpg"]
    draw(tmp_path, *files)
    texts = {f"{split}/labels/{split}.txt": f"0 {BOX}" for split in ("train", "valid")}
    images = load_images(str(write_files(tmp_path, {**texts, "data.yaml": yaml.safe_dump(content)})))
    check(images, labels=[[1], [1]], file_name=files, split=["train", "validation"])


def test_lists_of_pictures(tmp_path):
    content = {**CONTENT, "train": "lists/train.txt", "val": ["val.txt", "images/more"], "test": None}
    lists = {"lists/train.txt": "../images/train/a.jpg\n\nimages/train/b.png\n", "val.txt": "./images/val/d.jpg\n"}
    write(tmp_path, content, {**LABELS, "more/f": ""}, [*PICTURES, "more/f.jpg"], lists)
    images = load_images(str(tmp_path))
    check(
        images, labels=[MATRIX[0], MATRIX[1], MATRIX[3], [0, 0, 0]], split=["train", "train"] + ["validation"] * 2,
        file_name=["images/train/a.jpg", "images/train/b.png", "images/val/d.jpg", "images/more/f.jpg"],
    )  # fmt: skip


def test_the_last_images_of_a_path_is_replaced(tmp_path):
    texts = {"images/2024/labels/a.txt": f"0 {BOX}"}
    write(tmp_path, "train: images/2024/images\nnames: [dog]\n", {}, ["2024/images/a.jpg"], texts)
    check(load_images(str(tmp_path)), labels=[[1]])


def test_labels_beside_the_pictures(tmp_path):
    home = draw(tmp_path / "images" / "set", "train/a.jpg", "train/b.jpg")  # it may itself lie in a folder `images`
    write_files(home, {"train/a.txt": f"0 {BOX}", "train/b.txt": "", "train/list.txt": "a.jpg\nb.jpg"})
    for train in ("train/list.txt", "train"):
        write_files(home, {"data.yaml": f"train: {train}\nnames: [dog]\n"})
        if train == "train":
            (home / "train" / "list.txt").unlink()
        check(load_images(str(home)), labels=[[1], [0]])
    write_files(home, {"train/lone.txt": ""})
    assert fault(home) == ": train/lone.txt: no picture of this name in train"


@pytest.mark.parametrize("path", ["/content/datasets/x", "../datasets/coco8", "", ".", None, "here"])
def test_the_root_may_be_of_another_machine(tmp_path, caplog, path):
    home = tmp_path / "set"
    write(home / "here" if path == "here" else home)
    write_files(home, {"data.yaml": yaml.safe_dump({**CONTENT, "path": path})})
    check(load_images(str(home)), labels=MATRIX)
    assert ("is not there, so the file's own folder is taken" in caplog.text) == ("datasets" in str(path))


def test_pictures_may_lie_elsewhere(tmp_path):
    write(tmp_path / "far")
    write_files(tmp_path, {"near/data.yaml": yaml.safe_dump(CONTENT)})
    assert ": data.yaml, train: no folder and no .txt file 'images/train' in" in fault(tmp_path / "near")
    images = load_images(str(tmp_path / "near"), image_folder=str(tmp_path / "far"))
    check(images, labels=MATRIX, file_name=[f"images/{name}" for name in PICTURES])
    assert "image_folder 'none': no such folder" in error_of(read, tmp_path / "near", image_folder="none")


YAML_FAULTS = [
    ("", "/data.yaml: it is None, expected keys: names, train, val, test"),
    ("[1, 2]", "/data.yaml: it is [1, 2], expected keys"),
    ("names: [", "/data.yaml: cannot be read as YAML (while parsing a flow node"),
    ({**CONTENT, "names": None}, ": data.yaml, names: it is None, expected a list or class: name"),
    ({**CONTENT, "names": "dog"}, ": data.yaml, names: it is 'dog', expected a list"),
    ({**CONTENT, "names": []}, ": data.yaml, names: it is [], expected a list"),
    ({**CONTENT, "names": {1: "dog", 2: "car", 3: "person"}}, ": data.yaml, names: class numbers [1, 2, 3], exp"),
    ({**CONTENT, "names": {"0": "a", "1": "b", 2: "c"}}, ": data.yaml, names: class numbers ['0', '1', 2], expected"),
    ("names: [yes, 1, x]\ntrain: images/train", ": data.yaml, class 0: the name is True, expected text; data.yaml, cl"),
    ({**CONTENT, "names": ["dog", "dog", "car"]}, ": data.yaml, class 1: the name 'dog' is already that of data.yaml,"),
    ({**CONTENT, "names": ["dog", "", "car"]}, ": data.yaml, class 1: the name is empty"),
    ({**CONTENT, "names": ["dog", "car"]}, ": data.yaml, nc: it is 3, but there are 2 names"),
    ({**CONTENT, "nc": "3"}, ": data.yaml, nc: it is '3', but there are 3 names"),
    ({**CONTENT, "train": 5}, ": data.yaml, train: it is 5, expected a folder, a list of pictures, or several"),
    ({**CONTENT, "val": ["images/val", None]}, ": data.yaml, val: it is None, expected a folder"),
    ({**CONTENT, "val": {"a": 1}}, ": data.yaml, val: it is {'a': 1}, expected a folder"),
    ({**CONTENT, "test": "images/test"}, ": data.yaml, test: no folder and no .txt file 'images/test' in"),
    ({**CONTENT, "test": "data.yaml"}, ": data.yaml, test: no folder and no .txt file 'data.yaml' in"),
    ({**CONTENT, "val": "images/train"}, ": images/train/a.jpg: 'images/train/a.jpg' of validation is already in"),
    ({**CONTENT, "val": "../other"}, ": data.yaml, val: '../other' leaves the data folder"),
    ({**CONTENT, "val": "/etc"}, ": data.yaml, val: '/etc' leaves the data folder"),
    ({**CONTENT, "val": "a\0b"}, r": data.yaml, val: no folder and no .txt file 'a\x00b' in"),
    ({**CONTENT, "path": ".."}, ": data.yaml, path: '..' leaves the data folder"),
    ({**CONTENT, "path": 5}, ": data.yaml, path: it is 5, expected a folder"),
    ({"names": ["dog"], "train": "labels"}, ": no pictures in"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), YAML_FAULTS)
def test_faults_of_data_yaml(tmp_path, content, message):
    (tmp_path / "other").mkdir()
    assert message in fault(write(tmp_path / "set", content))


LINE_FAULTS = [
    ("dog 0 0 1 1", "line 1: class 'dog' is not a whole number from 0 to 2"),
    (f"0 {BOX}\n\n3 {BOX}", "line 3: class '3' is not a whole number from 0 to 2"),
    (f"-1 {BOX}", "line 1: class '-1' is not a whole number"),
    (f"1.0 {BOX}", "line 1: class '1.0' is not a whole number"),
    (f"\u0661 {BOX}", "line 1: class '\u0661' is not a whole number"),
    (f"{'1' * 5000} {BOX}", "line 1: class '1111"),
    ("0", "line 1: 0 numbers after the class, expected 4 (a box) or an even count from 6 on (a polygon)"),
    ("0 0.1 0.2 0.3", "line 1: 3 numbers after the class"),
    (f"0 {BOX} 0.9", "line 1: 5 numbers after the class"),
    (f"0 {BOX} 0.9 0.9 0.9", "line 1: 7 numbers after the class"),
    ("0 0.1 x 0.3 0.4", "line 1: '0.1 x 0.3 0.4' is not all numbers"),
    ("0 0.1 nan 0.3 0.4", "line 1: '0.1 nan 0.3 0.4' is not all numbers"),
    ("0 0.1 1e999 0.3 0.4", "line 1: '0.1 1e999 0.3 0.4' is not all numbers"),
    (f"0,{BOX}", "line 1: class '0,0.5' is not a whole number"),
    (b"0 0.1 \xff", "it is not UTF-8 text (invalid start byte, byte 7)"),
]


@pytest.mark.parametrize(("text", "message"), LINE_FAULTS)
def test_faults_of_label_files(tmp_path, text, message):
    told = fault(write(tmp_path, labels={**LABELS, "val/d": text}))
    assert told.startswith(": labels/val/d.txt")
    assert message in told


OTHER_FAULTS = [
    ({}, [], {"labels/train/z.txt": ""}, ": labels/train/z.txt: no picture of this name in images/train"),
    ({}, [], {"labels/train/deep/z.txt": ""}, ": labels/train/deep/z.txt: no picture of this name in images/tr"),
    ({}, ["train/a.png"], {}, ": images/train/a.png: its label file is also that of images/train/a.jpg"),
    ({"val": "val.txt"}, [], {"val.txt": "images/val/d.jpg\nimages/val/z.jpg"}, ": val.txt, line 2: no image 'images"),
    ({"val": "val.txt"}, [], {"val.txt": "images/val/d.jpg\nimages/val"}, ": val.txt, line 2: no image 'images/val'"),
    ({"val": "val.txt"}, [], {"val.txt": "labels/val/d.txt"}, ": val.txt, line 1: no image 'labels/val/d.txt'"),
    ({"val": "val.txt"}, [], {"val.txt": "images/val/d.jpg\n./images/val/d.jpg"}, ": val.txt, line 2: 'images/val/d.j"),
    ({"val": "val.txt"}, [], {"val.txt": "images/train/a.jpg"}, " of validation is already in train (images/train/a.j"),
    ({"val": "val.txt"}, [], {"val.txt": "../out.jpg"}, ": val.txt, line 1: '../out.jpg' leaves the data folder"),
    ({"val": "val.txt"}, [], {"val.txt": "\n/etc/passwd"}, ": val.txt, line 2: '/etc/passwd' leaves the data folder"),
    ({"val": "val.txt"}, [], {"val.txt": b"\xff"}, ": val.txt: it is not UTF-8 text (invalid start byte, byte 1)"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "pictures", "texts", "message"), OTHER_FAULTS)
def test_faults_of_lists_and_folders(tmp_path, content, pictures, texts, message):
    draw(tmp_path, "out.jpg")
    folder = write(tmp_path / "set", {**CONTENT, **content}, pictures=[*PICTURES, *pictures], texts=texts)
    assert message in fault(folder)


def test_faults_of_name_files(tmp_path):
    write(tmp_path, None)
    assert fault(tmp_path) == ": no names of classes; expected data.yaml or classes.txt, obj.names, names.txt"
    assert fault(tmp_path / "none") == ": no such file or folder"
    told = ": classes.txt, line 2: the name is empty; classes.txt, line 3: the name 'dog' is already"
    for text, message in (
        ("dog\n\ndog\n", told),
        ("\n", ": classes.txt: it has no names"),
        (b"\xff", "not UTF-8 text"),
    ):
        write_files(tmp_path, {"classes.txt": text})
        assert message in fault(tmp_path)


def test_no_label_file_at_all_is_a_fault(tmp_path):
    assert fault(write(tmp_path, labels={})) == (": none of 5 pictures has a label file; expected 'labels/val/e.txt'")


def test_a_linked_folder_is_told(tmp_path):
    write(tmp_path)
    (tmp_path / "images" / "train" / "again").symlink_to(tmp_path / "images")
    assert "images/train/again': a link to a folder is not followed" in fault(tmp_path)


def test_the_faults_of_all_files_are_told_at_once(tmp_path):
    labels = {**LABELS, "train/a": "9\n" * 20, "val/d": "x", "val/z": ""}
    text = fault(write(tmp_path, {**CONTENT, "nc": 4}, labels))
    assert text.startswith(": data.yaml, nc: it is 4, but there are 3 names; labels/train/a.txt, line 1: class '9'")
    assert text.endswith("; and 3 more faults")


def test_outside_the_folder_only_where_allowed(tmp_path):
    write(tmp_path / "out")
    for val in ("../out/images/val", str(tmp_path / "out" / "images" / "val"), "val.txt"):
        content, texts = {**CONTENT, "val": val}, {"val.txt": f"{tmp_path}/out/images/val/d.jpg\n"}
        write(tmp_path / "in", content, {"train/a": ""}, ["train/a.jpg"], texts)
        assert "leaves the data folder" in fault(tmp_path / "in")
        images = load_images({"path": str(tmp_path / "in"), "allow_outside": True})
        assert images.labels.tolist()[:2] == [[0, 0, 0], [0, 0, 1]]
        assert images.dataset[1]["image"]["path"] == str(tmp_path / "out" / "images" / "val" / "d.jpg")


def test_a_root_outside_only_where_allowed(tmp_path):
    write(tmp_path / "out")
    write_files(tmp_path, {"in/data.yaml": yaml.safe_dump({**CONTENT, "path": str(tmp_path / "out")})})
    assert "data.yaml, path: " in fault(tmp_path / "in")
    images = load_images({"path": str(tmp_path / "in"), "allow_outside": True})
    check(images, labels=MATRIX, file_name=[f"images/{name}" for name in PICTURES])


def test_detection(tmp_path):
    write(tmp_path / "yaml")
    write(tmp_path / "text", None, texts={"classes.txt": NAMES_TEXT})
    flow, recipe = "{train: x, 'names': [a]}", "names: [a]\nbackbone: b\n"
    write_files(tmp_path, {"flow/data.yaml": flow, "recipe.yaml": recipe, "other/data.yaml": "data: x\n",
                           "lone/classes.txt": NAMES_TEXT})  # fmt: skip
    known = ("yaml", "yaml/data.yaml", "text", "flow", "flow/data.yaml")
    for name in (*known, "recipe.yaml", "other", "lone", "lone/classes.txt", "yaml/images", "none", "a\0b"):
        assert looks_like_yolo(Source(str(tmp_path / name))) == (name in known), name
