import gzip
import json
from functools import partial

import pyarrow as pa
import pyarrow.parquet
import pytest
import reading
from reading import check, write_files

from halflabel.data.readers.label_files import read_long, read_open_images
from halflabel.data.source import Source

fault, open_fault = (partial(reading.fault, read) for read in (read_long, read_open_images))
X, U = -100, -101


@pytest.fixture
def folder(tmp_path):
    return write_files(tmp_path, {"a.jpg": "", "b.jpg": "", "c.jpg": ""})


def read(path, **keys):
    return read_long(Source(str(path), **keys))


HEADER = ("file_name", "label", "value", "split", "group")
ROWS = [
    ("b.jpg", "car", "1", "train", "g"),
    ("a.jpg", "dog", "0", "", ""),
    ("b.jpg", "dog", "", "train", "g"),
    ("a.jpg", "car", "?", "test", ""),
    ("b.jpg", "sign", "yes", "", ""),
]
MATRIX = [[1, X, 1], [U, 0, X]]
ASK = {"uncertain_values": ("?",)}


def write(folder, ending):
    path = folder / f"t.{ending}"
    if ending == "parquet":
        pa.parquet.write_table(pa.table({name: [row[i] for row in ROWS] for i, name in enumerate(HEADER)}), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(HEADER, row, strict=True))) for row in ROWS))
    else:
        path.write_text("\n".join(map(",".join, [HEADER, *ROWS])) + "\n")
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_every_format_gives_the_same(folder, ending):
    check(
        read(write(folder, ending), **ASK), names=("car", "dog", "sign"), labels=MATRIX, file_name=["b.jpg", "a.jpg"],
        split=["train", "test"], group=["g", ""], paths=[str(folder / name) for name in ("b.jpg", "a.jpg")],
    )  # fmt: skip


def test_only_the_asked_labels_in_the_asked_order(folder):
    path = write(folder, "csv")
    check(read(path, labels=("sign", "car"), **ASK), names=("sign", "car"), labels=[[1, 1], [X, U]])
    assert fault(path, labels=("sing",), **ASK) == ": unknown label 'sing'; did you mean sign?"


def test_numbers_may_be_numbers(folder):
    table = pa.table({"file_name": ["a.jpg", "b.jpg", "b.jpg"], "label": [7, 7, 8], "value": [1.0, 0.0, None]})
    pa.parquet.write_table(table, folder / "t.parquet")
    check(read(folder / "t.parquet"), names=("7", "8"), labels=[[1, X], [0, X]])


@pytest.mark.parametrize(
    ("rows", "names", "labels"),
    [
        ("a.jpg,car,1\n a.jpg , dog,0\nb.jpg, car ,0\n", ("car", "dog"), [[1, 0], [0, X]]),  # spaces alone
        ("a.jpg,car,1\na.jpg,car,1\na.jpg,dog,\na.jpg,dog,0\na.jpg,cat,?\na.jpg,cat,\n",
         ("car", "dog", "cat"), [[1, 0, U]]),  # twice the same, and unknown first or last
        ("a.jpg,car,\nb.jpg,car,1\n", ("car",), [[X], [1]]),  # nobody answered
    ],
)  # fmt: skip
def test_what_rows_say_together(folder, rows, names, labels):
    write_files(folder, {"t.csv": f"file_name,label,value\n{rows}"})
    check(read(folder / "t.csv", **ASK), names=names, labels=labels)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a.jpg,car,1\na.jpg,dog,1\na.jpg,car,0\n",
         ", row 4, column 'value': 'a.jpg' has another answer for 'car' in an earlier row"),
        ("a.jpg,car,-101\na.jpg,car,0\n",
         ", row 3, column 'value': 'a.jpg' has another answer for 'car' in an earlier row"),
        ("a.jpg,car,1\nb.jpg,car,2\nb.jpg,dog,x\n",
         ", row 3, column 'value': label value '2' is not 1, 0 or unknown (empty, NaN, -1); "
         "row 4, column 'value': label value 'x' is not 1, 0 or unknown (empty, NaN, -1)"),
        ("a.jpg,car,1\n,car,1\na.jpg,,1\n",
         ", row 3, column 'file_name': it is empty; row 4, column 'label': it is empty"),
        (",,1\n", ", row 2, column 'file_name': it is empty; row 2, column 'label': it is empty"),
        ("a.jpg,car\n\"b.jpg\",car,1\n", ", row 2: 2 cells, expected 3"),
        ("", ": the table has no rows"),
    ],
)  # fmt: skip
def test_faults(folder, rows, message):
    write_files(folder, {"t.csv": f"file_name,label,value\n{rows}"})
    assert fault(folder / "t.csv") == message


def test_faults_of_images_are_told_once(folder):
    rows = "a.jpg,car,1\nz.jpg,car,1\nz.jpg,dog,1\n../a.jpg,dog,0\n"
    write_files(folder, {"t.csv": f"file_name,label,value\n{rows}"})
    assert fault(folder / "t.csv") == (
        f", row 3, column 'file_name': no image 'z.jpg' in {folder}; "
        f"row 5, column 'file_name': '../a.jpg' leaves the image folder {folder}; is image_folder right?"
    )
    write_files(folder, {"t.csv": "file_name,labels,value\na.jpg,car,1\n"})
    assert fault(folder / "t.csv") == (
        ": no column 'label'; its columns are file_name, labels, value; did you mean labels?"
    )


def test_an_image_has_one_split_and_one_group(folder):
    rows = "a.jpg,car,1,train,x\na.jpg,dog,1,test,x\nb.jpg,car,1,,\nb.jpg,dog,1,test,y\n"
    rows += "b.jpg,cat,1,test,z\nc.jpg,cat,1,tset,\n"
    write_files(folder, {"t.csv": f"file_name,label,value,split,group\n{rows}"})
    assert fault(folder / "t.csv") == (
        ", row 3, column 'split': 'a.jpg' is already in split 'train'; "
        "row 6, column 'group': 'b.jpg' is already in group 'y'; "
        "row 7, column 'split': split 'tset' is none of train, validation, test; did you mean test?"
    )


ANSWERS = """ImageID,Source,LabelName,Confidence
000a,verification,/m/car,1
000a,verification,/m/dog,0
000b,crowdsource-verification,/m/dog,1
000b,verification,/m/jag1,0
000c,verification,/m/jag2,1
000a,verification,/m/ham,1
"""
DESCRIPTIONS = '/m/car,Car\n/m/dog,Dog\n/m/jag1,Jaguar\n/m/jag2,Jaguar\n/m/ham,"Ham, cooked"\n/m/none,Unused\n'
NAMES = ("Car", "Dog", "Jaguar (/m/jag1)", "Jaguar (/m/jag2)", "Ham, cooked")
OPEN_IMAGES = [[1, 0, X, X, 1], [X, 1, 0, X, X], [X, X, X, 1, X]]
FILES = ["000a.jpg", "000b.png", "000c.jpg"]


def read_open(path, **keys):
    return read_open_images(Source(str(path), **keys))


def open_images(folder, name="train-annotations-human-imagelabels.csv", pictures="train", descriptions=DESCRIPTIONS):
    content = gzip.compress(ANSWERS.encode()) if name.endswith("gz") else ANSWERS
    files = {f"{pictures}/{file}": "" for file in FILES} | {name: content}
    write_files(folder, files | ({} if descriptions is None else {"class-descriptions.csv": descriptions}))
    return folder / name


@pytest.mark.parametrize(
    ("name", "split", "pictures"),
    [
        ("train-annotations-human-imagelabels.csv", "train", "."),
        ("train-annotations-human-imagelabels.csv", "train", "images"),
        ("validation-annotations-human-imagelabels.csv", "validation", "validation"),
        ("oidv7-test-annotations-human-imagelabels.csv.gz", "test", "test"),
        ("restrained-answers.csv", "", "."),
    ],
)
def test_open_images(tmp_path, name, split, pictures):
    path = open_images(tmp_path, name, pictures)
    check(read_open(path), names=NAMES, labels=OPEN_IMAGES, file_name=FILES, split=[split] * 3)
    check(read_open(path, labels=("Ham, cooked", "Dog")), labels=[[1, 0], [X, 1], [X, X]])


def test_open_images_with_descriptions_given_or_in_several_files_or_none(tmp_path):
    path = open_images(tmp_path, descriptions=None)
    check(read_open(path), names=("/m/car", "/m/dog", "/m/jag1", "/m/jag2", "/m/ham"))
    write_files(tmp_path, {
        "oidv7-class-descriptions.csv": "LabelName,DisplayName\r\n/m/dog,Dog\r\n/m/ham,Ham\r\n/m/jag1,J\r\n",
        "class-descriptions-boxable.csv": "/m/car,Car\n/m/jag2,Jaguar\n",
        "mine.txt": DESCRIPTIONS, "bad.csv": b"/m/car,\xff\n",
    })  # fmt: skip
    check(read_open(path), names=("Car", "Dog", "J", "Jaguar", "Ham"))
    check(read_open(path, descriptions=str(tmp_path / "mine.txt")), names=NAMES)
    for name in ("no.csv", "bad.csv"):
        told = open_fault(path, descriptions=str(tmp_path / name))
        assert told == f": the descriptions file '{tmp_path / name}' cannot be read"


def test_a_name_that_codes_share_is_the_same_in_the_tables_of_all_splits(tmp_path):
    open_images(tmp_path)
    path = open_images(tmp_path, "validation-annotations-human-imagelabels.csv", "validation")
    path.write_text("ImageID,Source,LabelName,Confidence\n000a,verification,/m/jag2,1\n000b,verification,/m/car,0\n")
    check(read_open(path), names=("Jaguar (/m/jag2)", "Car"))


@pytest.mark.parametrize("given", [False, True])
def test_pictures_of_open_images_that_are_not_there_are_left_out_if_asked(tmp_path, caplog, given):
    """More answers for pictures elsewhere come first than are looked at to find the folder."""
    path = open_images(tmp_path)
    elsewhere = "".join(f"ff{i:02d},verification,/m/{'none' if i else 'car'},1\n" for i in range(30))
    head, _, answers = ANSWERS.partition("\n")
    path.write_text(f"{head}\n{elsewhere}{answers}000a,verification,/m/car,1\n")
    images = read_open(path, image_folder=str(tmp_path / "train") if given else None, missing_images="skip")
    assert f"{path}: 30 of 33 pictures are left out, as they are not in {tmp_path / 'train'}" in caplog.text
    check(images, names=NAMES, labels=OPEN_IMAGES, file_name=FILES)  # without Unused
    assert "no image 'ff00.jpg'" in open_fault(path, image_folder=str(tmp_path / "train"))
    check(read_open(path, labels=("Unused", "Dog"), missing_images="skip"), labels=[[X, 0], [X, 1], [X, X]])
    (tmp_path / "far").mkdir()
    told = open_fault(path, image_folder=str(tmp_path / "far"), missing_images="skip")
    assert told == f": none of its 33 pictures is in {tmp_path / 'far'}; is image_folder right?"


def test_faults_of_open_images_are_told_at_once(tmp_path):
    path = open_images(tmp_path, descriptions="/m/car,Car\n")
    path.write_text(
        "ImageID,Source,LabelName,Confidence\n000a,v,/m/car,1\n000a,v,/m/car,0\n000b,v,/m/new,1\n"
        "000z,v,/m/car,1\n../x,v,/m/car,1\n000b,v,/m/car,0.6\n000c,v,/m/car,\n"
    )
    folder = tmp_path / "train"
    assert open_fault(path) == (
        ", row 3, column 'Confidence': '000a' has another answer for 'Car' in an earlier row; "
        f"row 4, column 'LabelName': '/m/new' is not in {tmp_path / 'class-descriptions.csv'}; "
        f"row 5, column 'ImageID': no image '000z.jpg' in {folder}; "
        f"row 6, column 'ImageID': '../x.jpg' leaves the image folder {folder}; "
        "row 7, column 'Confidence': label value '0.6' is not 1, 0 or unknown (empty, NaN, -1); "
        "row 8, column 'Confidence': it is unknown; a verified label is 1 or 0; is image_folder right?"
    )
