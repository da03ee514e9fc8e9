import numpy as np
import pytest
import yaml
from fuzzing import broken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from halflabel import HalflabelError
from halflabel.data.loading import load_images
from halflabel.data.readers.yolo import looks_like_yolo, read_yolo
from halflabel.data.source import Source

from PIL import Image  # isort: skip


def looks_like(path):
    return looks_like_yolo(Source(str(path)))


UNKNOWN = -100
BOX = "0.5 0.5 0.25 1"
LABELS = {
    "train/a": f"1 {BOX}\n1 {BOX}\n",
    "train/b": f"\n0 {BOX}\r\n  2 0 0 1e-1 0.1 .5 1\n",
    "train/sub/c": "",
    "val/d": f"2 {BOX}",
}
PICTURES = ["train/a.jpg", "train/b.png", "train/sub/c.jpg", "val/d.jpg", "val/e.jpg"]  # nobody labelled e
NAMES = ("dog", "person", "car")
MATRIX = [[0, 1, 0], [1, 0, 1], [0, 0, 0], [0, 0, 1], [UNKNOWN] * 3]
POSITIVE_ONLY = [[UNKNOWN, 1, UNKNOWN], [1, UNKNOWN, 1], [UNKNOWN] * 3, [UNKNOWN, UNKNOWN, 1], [UNKNOWN] * 3]
CONTENT = {"train": "images/train", "val": "images/val", "nc": 3, "names": list(NAMES)}
NAMES_TEXT = "dog\nperson\ncar\n"


def write_texts(folder, texts):
    for name, text in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())


def write(folder, content=CONTENT, labels=LABELS, pictures=PICTURES, texts=None):
    """Write a data set: data.yaml with this content, label files, pictures, and other text files."""
    for name in pictures:
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(folder / "images" / name)
    write_texts(folder, {f"labels/{name}.txt": text for name, text in labels.items()} | (texts or {}))
    if content is not None:
        text = content if isinstance(content, str | bytes) else yaml.safe_dump(content, sort_keys=False)
        write_texts(folder, {"data.yaml": text})
    return folder


def fault(folder, **options):
    with pytest.raises(HalflabelError) as error:
        read_yolo(Source(str(folder), **options))
    text = str(error.value)
    assert len(text.splitlines()) == 1
    assert text.startswith(str(folder))
    return text.removeprefix(str(folder))


@pytest.mark.parametrize(("absent", "matrix"), [(None, MATRIX), ("negative", MATRIX), ("unknown", POSITIVE_ONLY)])
def test_every_entry_of_the_matrix(tmp_path, caplog, absent, matrix):
    write(tmp_path)
    sources = {"path": f"{tmp_path}/", "absent": absent}, {"path": str(tmp_path / "data.yaml")}
    detected, direct = load_images(sources[0]), load_images({**sources[1], "absent": absent})
    for images in (detected, direct, read_yolo(Source(str(tmp_path), absent=absent))):
        assert images.labels.tolist() == matrix
        assert images.labels.dtype == np.int8
        assert images.label_space.names == NAMES
        assert images.column("file_name").tolist() == [f"images/{name}" for name in PICTURES]
        assert images.column("split").tolist() == ["train"] * 3 + ["validation"] * 2
        assert images.dataset[1]["image"]["path"] == str(tmp_path / "images" / "train" / "b.png")
    assert caplog.text.count("nobody labelled 1 of 5 pictures") == 3


def test_names_may_be_a_mapping_in_any_order(tmp_path):
    write(tmp_path, {**CONTENT, "names": {2: "car", 0: "dog", 1: "person"}})
    assert read_yolo(Source(str(tmp_path))).label_space.names == NAMES
    assert read_yolo(Source(str(tmp_path))).labels.tolist() == MATRIX


@pytest.mark.parametrize("file", ["classes.txt", "obj.names", "names.txt", "labels/classes.txt"])
def test_folders_with_a_file_of_names(tmp_path, file):
    images = load_images(str(write(tmp_path, None, texts={file: NAMES_TEXT})))
    assert images.labels.tolist() == MATRIX
    assert images.label_space.names == NAMES
    assert images.column("split").tolist() == ["train"] * 3 + ["validation"] * 2


def test_folders_that_tell_no_split(tmp_path):
    write(tmp_path, None, {"a": f"0 {BOX}", "b": ""}, ["a.jpg", "b.jpg"], {"classes.txt": "dog\n"})
    images = read_yolo(Source(str(tmp_path)))
    assert images.labels.tolist() == [[1], [0]]
    assert images.column("split").tolist() == ["", ""]


def test_a_folder_per_split_as_roboflow_exports_it(tmp_path):
    content = {"train": "../train/images", "val": "../valid/images", "names": ["dog"], "roboflow": {"version": 1}}
    for split in ("train", "valid"):
        write_texts(tmp_path, {f"{split}/labels/{split}.txt": f"0 {BOX}"})
        (tmp_path / split / "images").mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "images" / f"{split}.jpg")
    write_texts(tmp_path, {"data.yaml": yaml.safe_dump(content)})
    images = load_images(str(tmp_path))
    assert images.labels.tolist() == [[1], [1]]
    assert images.column("file_name").tolist() == ["train/images/train.jpg", "valid/images/valid.jpg"]
    assert images.column("split").tolist() == ["train", "validation"]


def test_lists_of_pictures(tmp_path):
    content = {**CONTENT, "train": "lists/train.txt", "val": ["val.txt", "images/more"], "test": None}
    lists = {"lists/train.txt": "../images/train/a.jpg\n\nimages/train/b.png\n", "val.txt": "./images/val/d.jpg\n"}
    write(tmp_path, content, {**LABELS, "more/f": ""}, [*PICTURES, "more/f.jpg"], lists)
    images = load_images(str(tmp_path))
    assert images.labels.tolist() == [MATRIX[0], MATRIX[1], MATRIX[3], [0, 0, 0]]
    assert images.column("file_name").tolist()[0] == "images/train/a.jpg"
    assert images.column("split").tolist() == ["train", "train", "validation", "validation"]


def test_the_last_images_of_a_path_is_replaced(tmp_path):
    write(tmp_path, "train: images/2024/images\nnames: [dog]\n", {}, ["2024/images/a.jpg"])
    write_texts(tmp_path, {"images/2024/labels/a.txt": f"0 {BOX}"})
    assert load_images(str(tmp_path)).labels.tolist() == [[1]]


def test_labels_beside_the_pictures(tmp_path):
    for name in ("a", "b"):
        write_texts(tmp_path, {f"images/set/train/{name}.txt": f"0 {BOX}" if name == "a" else ""})
        Image.new("RGB", (8, 8)).save(tmp_path / "images" / "set" / "train" / f"{name}.jpg")
    home = tmp_path / "images" / "set"  # a data set may itself lie in a folder `images`
    write_texts(home, {"data.yaml": "train: train\nnames: [dog]\n"})
    assert load_images(str(home)).labels.tolist() == [[1], [0]]
    write_texts(home, {"data.yaml": "train: train/list.txt\nnames: [dog]\n", "train/list.txt": "a.jpg\nb.jpg"})
    assert load_images(str(home)).labels.tolist() == [[1], [0]]
    write_texts(home, {"train/lone.txt": ""})
    assert fault(home) == ": train/lone.txt: no picture of this name in train"


@pytest.mark.parametrize("path", ["/content/datasets/x", "../datasets/coco8", "", ".", None, "here"])
def test_the_root_may_be_of_another_machine(tmp_path, caplog, path):
    home = tmp_path / "set"
    write(home / "here" if path == "here" else home)
    write_texts(home, {"data.yaml": yaml.safe_dump({**CONTENT, "path": path})})
    assert load_images(str(home)).labels.tolist() == MATRIX
    assert ("is not there, so the file's own folder is taken" in caplog.text) == ("datasets" in str(path))


def test_pictures_may_lie_elsewhere(tmp_path):
    write(tmp_path / "far")
    write_texts(tmp_path, {"near/data.yaml": yaml.safe_dump(CONTENT)})
    assert ": data.yaml, train: no folder and no .txt file 'images/train' in" in fault(tmp_path / "near")
    images = load_images(str(tmp_path / "near"), image_folder=str(tmp_path / "far"))
    assert images.labels.tolist() == MATRIX
    assert images.column("file_name").tolist()[0] == "images/train/a.jpg"
    with pytest.raises(HalflabelError, match="image_folder 'none': no such folder"):
        read_yolo(Source(str(tmp_path / "near"), image_folder="none"))


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nnames: [*b, *b]\n"
YAML_FAULTS = [
    ("", "/data.yaml: it is None, expected keys: names, train, val, test"),
    ("[1, 2]", "/data.yaml: it is [1, 2], expected keys"),
    ("names: [", "/data.yaml: cannot be read as YAML (while parsing a flow node"),
    (b"names: [\xff]", "/data.yaml: cannot be read as YAML ('utf-8' codec can't decode byte 0xff"),
    ("names: [a]\n---\nnames: [b]\n", "/data.yaml: cannot be read as YAML (expected a single document"),
    ("names: !!python/object/apply:os.getcwd []", "/data.yaml: cannot be read as YAML (could not determine a constr"),
    ('names: !!int ""', "/data.yaml: cannot be read as YAML (string index out of range)"),
    ("names: 2024-13-45", "/data.yaml: cannot be read as YAML (month must be in 1..12)"),
    ("[" * 5000 + "]" * 5000, "/data.yaml: cannot be read as YAML (maximum recursion depth"),
    (f"names: [a]\nnc: 0x{'f' * 9999}", "/data.yaml: cannot be read as YAML (Exceeds the limit"),
    (BOMB, "/data.yaml: it has an alias (*a); write out what it stands for"),
    ("names: {0: dog, 0: cat}", "/data.yaml: the key '0' is given twice"),
    ("names: [dog]\nnames: [cat]", "/data.yaml: the key 'names' is given twice"),
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
    ({**CONTENT, "train": ["images/val"]}, ": images/val/d.jpg: 'images/val/d.jpg' of validation is already in train"),
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
    Image.new("RGB", (8, 8)).save(tmp_path / "out.jpg")
    folder = write(tmp_path / "set", {**CONTENT, **content}, pictures=[*PICTURES, *pictures], texts=texts)
    assert message in fault(folder)


def test_faults_of_name_files(tmp_path):
    write(tmp_path, None, texts={"classes.txt": "dog\n\ndog\n"})
    told = fault(tmp_path)
    assert told.startswith(": classes.txt, line 2: the name is empty; classes.txt, line 3: the name 'dog' is already")
    write_texts(tmp_path, {"classes.txt": "\n"})
    assert fault(tmp_path) == ": classes.txt: it has no names"
    write_texts(tmp_path, {"classes.txt": b"\xff"})
    assert ": classes.txt: it is not UTF-8 text" in fault(tmp_path)
    (tmp_path / "classes.txt").unlink()
    assert fault(tmp_path) == ": no names of classes; expected data.yaml or classes.txt, obj.names, names.txt"
    assert fault(tmp_path / "none") == ": no such file or folder"


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
    write_texts(tmp_path, {"in/data.yaml": yaml.safe_dump({**CONTENT, "path": str(tmp_path / "out")})})
    assert "data.yaml, path: " in fault(tmp_path / "in")
    images = load_images({"path": str(tmp_path / "in"), "allow_outside": True})
    assert images.labels.tolist() == MATRIX
    assert images.column("file_name").tolist()[0] == "images/train/a.jpg"


def test_detection(tmp_path):
    write(tmp_path / "yaml")
    write(tmp_path / "text", None, texts={"classes.txt": NAMES_TEXT})
    write_texts(tmp_path, {"flow/data.yaml": "{train: x, 'names': [a]}", "recipe.yaml": "names: [a]\nbackbone: b\n"})
    write_texts(tmp_path, {"other/data.yaml": "data: x\n", "lone/classes.txt": NAMES_TEXT})
    for name in ("yaml", "yaml/data.yaml", "text", "flow", "flow/data.yaml"):
        assert looks_like(tmp_path / name), name
    for name in ("recipe.yaml", "other", "lone", "lone/classes.txt", "yaml/images", "none", "a\0b"):
        assert not looks_like(tmp_path / name), name


PIECES = [
    b"names:", b"path: ", b"train: ", b"[", b"]", b"{", b"}", b"- ", b": ", b"\n", b"  ", b"\t", b"&a ", b"*a", b"<<: ",
    b"!!int ''", b"!!float ''", b"!!timestamp x", b"!!bool x", b"!!binary x", b"!!set {a}", b"~", b"yes", b"0", b"-1",
    b"..", b"/", b"images/val", b"\0", b"\xff", b"'\\ud800'", b'"\\ud800"', b"2024-13-45", b"1e999", b"nan", b"x" * 300,
]  # fmt: skip


YAML = broken(yaml.safe_dump({**CONTENT, "path": ".", "test": "test.txt", "names": dict(enumerate(NAMES))}), PIECES)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=YAML,
    label=broken(LABELS["train/b"], PIECES),
    listed=broken("images/more/f.jpg\n", PIECES),
    outside=st.booleans(),
)
def test_any_folder_gives_a_result_or_a_fault(tmp_path, content, label, listed, outside):
    texts = {"labels/train/b.txt": label, "labels/more/f.txt": "", "test.txt": listed, "data.yaml": content}
    write(tmp_path, None, pictures=[*PICTURES, "more/f.jpg"] if not (tmp_path / "images").exists() else [], texts=texts)
    looks_like(tmp_path)
    try:
        images = read_yolo(Source(str(tmp_path), allow_outside=outside))
    except HalflabelError as error:
        text = str(error)
        assert text.startswith(str(tmp_path)) and len(text.splitlines()) == 1  # noqa: PT018
    else:
        assert len(images) > 0
        assert set(np.unique(images.labels)) <= {1, 0, UNKNOWN}
