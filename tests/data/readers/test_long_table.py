import csv
import gzip
import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from halflabel import HalflabelError
from halflabel.data.readers.label_files import read_long, read_open_images
from halflabel.data.source import Source


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (tmp_path / name).touch()
    return tmp_path


def error_of(read, path, **keys):
    with pytest.raises(HalflabelError) as error:
        read(Source(str(path), **keys))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).removeprefix(str(path))


HEADER = ("file_name", "label", "value", "split", "group")
ROWS = [
    ("b.jpg", "car", "1", "train", "g"),
    ("a.jpg", "dog", "0", "", ""),
    ("b.jpg", "dog", "", "train", "g"),
    ("a.jpg", "car", "?", "test", ""),
    ("b.jpg", "sign", "yes", "", ""),
]
MATRIX = [[1, -100, 1], [-101, 0, -100]]


def write(folder, ending, rows=ROWS, header=HEADER):
    path = folder / f"t.{ending}"
    if ending == "parquet":
        pa.parquet.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(header)}), path)
    elif ending == "jsonl":
        path.write_text("\n".join(json.dumps(dict(zip(header, row, strict=True))) for row in rows))
    else:
        text = "\n".join(("\t" if "tsv" in ending else ",").join(row) for row in [header, *rows]) + "\n"
        path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "parquet", "jsonl"])
def test_every_format_gives_the_same(folder, ending):
    images = read_long(Source(str(write(folder, ending)), uncertain_values=("?",)))
    assert images.label_space.names == ("car", "dog", "sign")
    assert images.labels.tolist() == MATRIX
    assert images.column("file_name").tolist() == ["b.jpg", "a.jpg"]
    assert images.column("split").tolist() == ["train", "test"]
    assert images.column("group").tolist() == ["g", ""]
    assert images.dataset[1]["image"] == {"bytes": None, "path": str(folder / "a.jpg")}


def test_only_the_asked_labels_in_the_asked_order(folder):
    path = write(folder, "csv")
    images = read_long(Source(str(path), labels=("sign", "car"), uncertain_values=("?",)))
    assert images.label_space.names == ("sign", "car")
    assert images.labels.tolist() == [[1, 1], [-100, -101]]
    assert error_of(read_long, path, labels=("sing",), uncertain_values=("?",)) == (
        ": unknown label 'sing'; did you mean sign?"
    )


def test_numbers_may_be_numbers(folder):
    table = pa.table({"file_name": ["a.jpg", "b.jpg", "b.jpg"], "label": [7, 7, 8], "value": [1.0, 0.0, None]})
    pa.parquet.write_table(table, folder / "t.parquet")
    images = read_long(Source(str(folder / "t.parquet")))
    assert images.label_space.names == ("7", "8")
    assert images.labels.tolist() == [[1, -100], [0, -100]]


def test_names_that_differ_in_spaces_alone_are_one(folder):
    (folder / "t.csv").write_text("file_name,label,value\na.jpg,car,1\n a.jpg , dog,0\nb.jpg, car ,0\n")
    images = read_long(Source(str(folder / "t.csv")))
    assert images.label_space.names == ("car", "dog")
    assert images.labels.tolist() == [[1, 0], [0, -100]]


def test_an_answer_may_be_given_twice_and_an_unknown_one_yields(folder):
    rows = "a.jpg,car,1\na.jpg,car,1\na.jpg,dog,\na.jpg,dog,0\na.jpg,cat,?\na.jpg,cat,\n"
    (folder / "t.csv").write_text("file_name,label,value\n" + rows)
    assert read_long(Source(str(folder / "t.csv"), uncertain_values=("?",))).labels.tolist() == [[1, 0, -101]]


def test_an_image_nobody_answered_for_stays(folder):
    (folder / "t.csv").write_text("file_name,label,value\na.jpg,car,\nb.jpg,car,1\n")
    assert read_long(Source(str(folder / "t.csv"))).labels.tolist() == [[-100], [1]]


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
    (folder / "t.csv").write_text("file_name,label,value\n" + rows)
    assert error_of(read_long, folder / "t.csv") == message


def test_images_that_are_not_there_or_outside_are_told_once(folder):
    (folder / "t.csv").write_text("file_name,label,value\na.jpg,car,1\nz.jpg,car,1\nz.jpg,dog,1\n../a.jpg,dog,0\n")
    assert error_of(read_long, folder / "t.csv") == (
        f", row 3, column 'file_name': no image 'z.jpg' in {folder}; "
        f"row 5, column 'file_name': '../a.jpg' leaves the image folder {folder}; is image_folder right?"
    )


def test_an_image_has_one_split_and_one_group(folder):
    rows = "a.jpg,car,1,train,x\na.jpg,dog,1,test,x\nb.jpg,car,1,,\nb.jpg,dog,1,test,y\n"
    rows += "b.jpg,cat,1,test,z\nc.jpg,cat,1,tset,\n"
    (folder / "t.csv").write_text("file_name,label,value,split,group\n" + rows)
    assert error_of(read_long, folder / "t.csv") == (
        ", row 3, column 'split': 'a.jpg' is already in split 'train'; "
        "row 6, column 'group': 'b.jpg' is already in group 'y'; "
        "row 7, column 'split': split 'tset' is none of train, validation, test; did you mean test?"
    )


def test_a_column_that_is_missing(folder):
    (folder / "t.csv").write_text("file_name,labels,value\na.jpg,car,1\n")
    assert error_of(read_long, folder / "t.csv") == (
        ": no column 'label'; its columns are file_name, labels, value; did you mean labels?"
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
OPEN_IMAGES = [[1, 0, -100, -100, 1], [-100, 1, 0, -100, -100], [-100, -100, -100, 1, -100]]


def open_images(folder, name="train-annotations-human-imagelabels.csv", pictures="train", descriptions=DESCRIPTIONS):
    (folder / pictures).mkdir(parents=True, exist_ok=True)
    for image in ("000a.jpg", "000b.png", "000c.jpg"):
        (folder / pictures / image).touch()
    path = folder / name
    path.write_bytes(gzip.compress(ANSWERS.encode()) if name.endswith("gz") else ANSWERS.encode())
    if descriptions is not None:
        (folder / "class-descriptions.csv").write_text(descriptions)
    return path


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-annotations-human-imagelabels.csv", "train"),
        ("validation-annotations-human-imagelabels.csv", "validation"),
        ("oidv7-test-annotations-human-imagelabels.csv.gz", "test"),
        ("restrained-answers.csv", ""),
    ],
)
@pytest.mark.parametrize("pictures", [".", "images", "train"])
def test_open_images(tmp_path, name, split, pictures):
    if pictures == "train" and split:
        pictures = split
    images = read_open_images(Source(str(open_images(tmp_path, name, pictures if split else "."))))
    assert images.label_space.names == NAMES
    assert images.labels.tolist() == OPEN_IMAGES
    assert images.column("file_name").tolist() == ["000a.jpg", "000b.png", "000c.jpg"]
    assert images.column("split").tolist() == [split] * 3


def test_open_images_with_labels_named(tmp_path):
    images = read_open_images(Source(str(open_images(tmp_path)), labels=("Ham, cooked", "Dog")))
    assert images.labels.tolist() == [[1, 0], [-100, 1], [-100, -100]]


def test_open_images_without_descriptions_keeps_the_codes(tmp_path):
    images = read_open_images(Source(str(open_images(tmp_path, descriptions=None))))
    assert images.label_space.names == ("/m/car", "/m/dog", "/m/jag1", "/m/jag2", "/m/ham")


def test_open_images_with_descriptions_given_or_in_several_files(tmp_path):
    path = open_images(tmp_path, descriptions=None)
    with (tmp_path / "oidv7-class-descriptions.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("LabelName", "DisplayName"), ("/m/dog", "Dog"), ("/m/ham", "Ham"), ("/m/jag1", "J")]
        )
    (tmp_path / "class-descriptions-boxable.csv").write_text("/m/car,Car\n/m/jag2,Jaguar\n")
    assert read_open_images(Source(str(path))).label_space.names == ("Car", "Dog", "J", "Jaguar", "Ham")
    (tmp_path / "mine.txt").write_text(DESCRIPTIONS)
    assert read_open_images(Source(str(path), descriptions=str(tmp_path / "mine.txt"))).label_space.names == NAMES
    assert error_of(read_open_images, path, descriptions=str(tmp_path / "no.csv")) == (
        f": the descriptions file '{tmp_path / 'no.csv'}' cannot be read"
    )
    (tmp_path / "bad.csv").write_bytes(b"/m/car,\xff\n")
    assert "cannot be read" in error_of(read_open_images, path, descriptions=str(tmp_path / "bad.csv"))


def test_a_name_that_codes_share_is_the_same_in_the_tables_of_all_splits(tmp_path):
    open_images(tmp_path)
    path = open_images(tmp_path, "validation-annotations-human-imagelabels.csv", "validation")
    path.write_text("ImageID,Source,LabelName,Confidence\n000a,verification,/m/jag2,1\n000b,verification,/m/car,0\n")
    assert read_open_images(Source(str(path))).label_space.names == ("Jaguar (/m/jag2)", "Car")


@pytest.mark.parametrize("given", [False, True])
def test_pictures_of_open_images_that_are_not_there_are_left_out_if_asked(tmp_path, caplog, given):
    """More answers for pictures elsewhere come first than are looked at to find the folder."""
    path = open_images(tmp_path)
    elsewhere = "".join(f"ff{i:02d},verification,/m/{'none' if i else 'car'},1\n" for i in range(30))
    head, _, answers = ANSWERS.partition("\n")
    path.write_text(f"{head}\n{elsewhere}{answers}000a,verification,/m/car,1\n")
    source = Source(str(path), image_folder=str(tmp_path / "train") if given else None, missing_images="skip")
    images = read_open_images(source)
    assert f"{path}: 30 of 33 pictures are left out, as they are not in {tmp_path / 'train'}" in caplog.text
    assert images.label_space.names == NAMES  # without Unused, which no picture here has an answer for
    assert images.labels.tolist() == OPEN_IMAGES
    assert images.column("file_name").tolist() == ["000a.jpg", "000b.png", "000c.jpg"]
    assert "no image 'ff00.jpg'" in error_of(read_open_images, path, image_folder=str(tmp_path / "train"))
    asked = Source(str(path), labels=("Unused", "Dog"), missing_images="skip")
    assert read_open_images(asked).labels.tolist() == [[-100, 0], [-100, 1], [-100, -100]]


def test_where_no_picture_of_open_images_is_there_skipping_is_no_way_out(tmp_path):
    path = open_images(tmp_path)
    (tmp_path / "far").mkdir()
    told = error_of(read_open_images, path, image_folder=str(tmp_path / "far"), missing_images="skip")
    assert told == f": none of its 3 pictures is in {tmp_path / 'far'}; is image_folder right?"
    with pytest.raises(HalflabelError, match="missing_images 'skpi' is none of error, skip; did you mean skip"):
        Source(str(path), missing_images="skpi")


def test_faults_of_open_images_are_told_at_once(tmp_path):
    path = open_images(tmp_path, descriptions="/m/car,Car\n")
    path.write_text(
        "ImageID,Source,LabelName,Confidence\n000a,v,/m/car,1\n000a,v,/m/car,0\n000b,v,/m/new,1\n"
        "000z,v,/m/car,1\n../x,v,/m/car,1\n000b,v,/m/car,0.6\n000c,v,/m/car,\n"
    )
    folder = tmp_path / "train"
    assert error_of(read_open_images, path) == (
        ", row 3, column 'Confidence': '000a' has another answer for 'Car' in an earlier row; "
        f"row 4, column 'LabelName': '/m/new' is not in {tmp_path / 'class-descriptions.csv'}; "
        f"row 5, column 'ImageID': no image '000z.jpg' in {folder}; "
        f"row 6, column 'ImageID': '../x.jpg' leaves the image folder {folder}; "
        "row 7, column 'Confidence': label value '0.6' is not 1, 0 or unknown (empty, NaN, -1); "
        "row 8, column 'Confidence': it is unknown; a verified label is 1 or 0; is image_folder right?"
    )
