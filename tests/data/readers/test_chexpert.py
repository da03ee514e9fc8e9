import gzip
from functools import partial

import pytest
import reading
from reading import check, write_files

from halflabel.data.readers.label_files import FINDINGS, read_chexpert
from halflabel.data.source import Source

fault = partial(reading.fault, read_chexpert)
HEADER = f"Path,Sex,Age,Frontal/Lateral,AP/PA,{','.join(FINDINGS)}"  # as in CheXpert-v1.0-small/train.csv
PICTURES = [
    "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg",
    "CheXpert-v1.0-small/train/patient00002/study2/view1_frontal.jpg",
    "CheXpert-v1.0-small/train/patient00002/study2/view2_lateral.jpg",
]
ROWS = f"""{PICTURES[0]},Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0
{PICTURES[1]},Female,87,Frontal,AP,,,-1.0,1.0,,-1.0,-1.0,,-1.0,,-1.0,,1.0,
{PICTURES[2]},Male,80,Lateral,,0.0,0.0,,,,,1.0,-1.0,,,,,,
"""
U, X = -101, -100
MATRIX = [
    [1, X, X, X, X, X, X, X, X, 0, X, X, X, 1],
    [X, X, U, 1, X, U, U, X, U, X, U, X, 1, X],
    [0, 0, X, X, X, X, 1, U, X, X, X, X, X, X],
]


def touch(folder, names):
    write_files(folder, dict.fromkeys(names, ""))


def read(path, **keys):
    return read_chexpert(Source(str(path), **keys))


@pytest.fixture
def chexpert(tmp_path):
    touch(tmp_path, PICTURES)
    path = tmp_path / "CheXpert-v1.0-small" / "train.csv"
    path.write_text(f"{HEADER}\n{ROWS}")
    return path


def test_chexpert_as_it_is_unpacked(chexpert, tmp_path):
    check(
        read(chexpert), names=FINDINGS, labels=MATRIX, split=["train"] * 3, file_name=PICTURES,
        group=["patient00001", "patient00002", "patient00002"], paths=[str(tmp_path / name) for name in PICTURES],
    )  # fmt: skip


def test_the_validation_file_says_its_split_by_its_paths(tmp_path):
    picture = "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"
    text = f"{HEADER}\n{picture},Male,73,Frontal,AP,{','.join(['0.0', '1.0'] * 7)}\n"
    write_files(tmp_path, {picture: "", "CheXpert-v1.0-small/valid.csv": text})
    images = read(tmp_path / "CheXpert-v1.0-small" / "valid.csv")
    check(images, labels=[[0, 1] * 7], split=["validation"])


@pytest.mark.parametrize("where", ["renamed", "beside", "given whole", "given inner", "zipped"])
def test_the_pictures_are_found(chexpert, tmp_path, where):
    folder, path, given = tmp_path / "CheXpert-v1.0-small", chexpert, None
    if where == "renamed":
        path = folder.rename(tmp_path / "archive") / "train.csv"
    elif where == "beside":
        path = chexpert.rename(tmp_path / "train.csv")
    elif where.startswith("given"):
        (tmp_path / "labels").mkdir()
        path = chexpert.rename(tmp_path / "labels" / "train.csv")
        given = str(tmp_path if where == "given whole" else folder)
    else:
        path = folder / "train.csv.gz"
        path.write_bytes(gzip.compress(chexpert.read_bytes()))
    check(read(path, image_folder=given), labels=MATRIX, file_name=PICTURES)


def test_minus_one_stays_uncertain_beside_other_values(chexpert):
    chexpert.write_text(chexpert.read_text().replace("68,Frontal,AP,1.0", "68,Frontal,AP,?"))
    check(read(chexpert, uncertain_values=("?",)), labels=[[U, *MATRIX[0][1:]], *MATRIX[1:]])


def test_a_file_with_some_of_the_findings(tmp_path):
    write_files(tmp_path, {"x/a.jpg": "", "t.csv": "Fracture,Path,Edema\n1.0,x/a.jpg,-1\n"})
    check(read(tmp_path / "t.csv"), names=("Edema", "Fracture"), labels=[[U, 1]], split=[""], group=[""])
    (tmp_path / "t.csv").write_text("Path,Cough\nx/a.jpg,1\n")
    assert fault(tmp_path / "t.csv") == ": none of the 14 CheXpert findings is a column"
    (tmp_path / "t.csv").write_text("File,Edema\nx/a.jpg,1\n")
    assert fault(tmp_path / "t.csv").startswith(": no column 'subject_id'")


def test_faults_of_chexpert_are_told_at_once(chexpert, tmp_path):
    gone = PICTURES[1].replace("view1", "view9")
    rows = ((PICTURES[0], "2.0"), (PICTURES[0], "1.0"), (gone, "0.0"), ("../x.jpg", ""), ("/etc/x.jpg", "0"), ("", "1"))
    text = "\n".join(f"{name},,,,,{cells}" + "," * 13 for name, cells in rows)
    chexpert.write_text(f"{HEADER}\n{text}\n")
    assert fault(chexpert) == (
        ", row 2, column 'No Finding': label value '2.0' is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 3, column 'Path': {PICTURES[0]!r} is already in row 2; "
        f"row 4, column 'Path': no image {gone!r} in {tmp_path}; "
        f"row 5, column 'Path': '../x.jpg' leaves the image folder {tmp_path}; "
        f"row 6, column 'Path': '/etc/x.jpg' leaves the image folder {tmp_path}; "
        "row 7, column 'Path': it is empty; is image_folder right?"
    )


def test_a_path_that_leaves_a_renamed_folder_is_refused(tmp_path):
    text = "Path,Edema\nCheXpert/train/a.jpg,1\n../b.jpg,1\n/b.jpg,1\n"
    folder = write_files(tmp_path / "archive", {"train/a.jpg": "", "b.jpg": "", "train.csv": text})
    assert fault(folder / "train.csv") == (
        f", row 3, column 'Path': '../b.jpg' leaves the image folder {folder}; "
        f"row 4, column 'Path': '/b.jpg' leaves the image folder {folder}"
    )


STUDIES = """subject_id,study_id,Atelectasis,Cardiomegaly,Edema
10000032,50414267,,1.0,0.0
10000032,53189527,-1.0,,
10000764,57375967,1.0,,-1.0
"""
DICOMS = [
    "files/p10/p10000032/s50414267/02aa804e.jpg",
    "files/p10/p10000032/s50414267/174413ec.jpg",
    "files/p10/p10000032/s53189527/2a2277a9.jpg",
    "files/p10/p10000764/s57375967/096052b7.jpg",
]
SPLITS = """dicom_id,study_id,subject_id,split
02aa804e,50414267,10000032,train
174413ec,50414267,10000032,train
2a2277a9,53189527,10000032,validate
096052b7,57375967,10000764,test
ffffffff,57375968,10000765,test
"""
MIMIC = [[1, 0, X], [1, 0, X], [X, X, U], [X, U, 1]]  # in the order of FINDINGS: Cardiomegaly, Edema, Atelectasis


@pytest.fixture
def mimic(tmp_path):
    touch(tmp_path, [*DICOMS, "files/p10/p10000032/s50414267/index.html"])
    path = tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz"
    path.write_bytes(gzip.compress(STUDIES.encode()))
    return path


def test_mimic_gives_every_picture_its_study_s_labels(mimic, tmp_path):
    check(
        read(mimic), names=("Cardiomegaly", "Edema", "Atelectasis"), labels=MIMIC, file_name=DICOMS,
        group=["p10000032"] * 3 + ["p10000764"], split=[""] * 4, paths=[str(tmp_path / name) for name in DICOMS],
    )  # fmt: skip
    (tmp_path / "t.csv").write_text("subject_id,study_id,Edema\n10000764.0,57375967.0,1.0\n")  # as pandas made them
    check(read(tmp_path / "t.csv"), file_name=[DICOMS[3]])


@pytest.mark.parametrize("ending", ["csv", "csv.gz"])
def test_mimic_s_split_file_is_used_where_it_lies_beside(mimic, tmp_path, ending):
    text = gzip.compress(SPLITS.encode()) if ending == "csv.gz" else SPLITS
    write_files(tmp_path, {f"mimic-cxr-2.0.0-split.{ending}": text})
    check(read(mimic), split=["train", "train", "validation", "test"], labels=MIMIC)


def test_faults_of_mimic_s_split_file(mimic, tmp_path):
    file = tmp_path / "mimic-cxr-2.0.0-split.csv"
    file.write_text(SPLITS.replace("2a2277a9,53189527,10000032,validate\n", ""))
    assert fault(mimic) == f", row 3, column 'study_id': {DICOMS[2]} is not in the split file"
    check(read(mimic, split="test"), labels=MIMIC)  # the caller's split is enough
    file.write_text(SPLITS + "02aa804e,50414267,10000032,test\n096052b7,57375967,10000764,tets\n")
    assert reading.error_of(read, mimic) == (
        f"{file}, row 7, column 'dicom_id': '02aa804e' is already in row 2 (train and test); "
        "row 8, column 'split': split 'tets' is none of train, validation, test; did you mean test?; "
        "row 8, column 'dicom_id': '096052b7' is already in row 5 (test and none)"
    )
    (tmp_path / "mimic-cxr-2.1.0-split.csv").write_text(SPLITS)
    assert "several split files lie beside it: mimic-cxr-2.0.0-split.csv, mimic-cxr-2.1.0-split.csv" in fault(mimic)


def test_mimic_s_pictures_may_lie_elsewhere(mimic, tmp_path):
    for place in ("images", "elsewhere"):
        (tmp_path / place).mkdir()
        (tmp_path / ("files" if place == "images" else "images/files")).rename(tmp_path / place / "files")
        images = read(mimic, image_folder=None if place == "images" else str(tmp_path / place))
        check(images, labels=MIMIC, paths=[str(tmp_path / place / name) for name in DICOMS])


def test_faults_of_mimic_are_told_at_once(tmp_path):
    touch(tmp_path, DICOMS)
    rows = "10000032,50414267,,1.0,0.0\n10000032,99999999,1.0,,\n../../x,1,1.0,,\n,57375967,,,\n10000764,5,q,,\n"
    (tmp_path / "t.csv").write_text(STUDIES + rows)
    assert fault(tmp_path / "t.csv") == (
        ", row 5, column 'study_id': '50414267' is already in row 2; "
        f"row 6, column 'study_id': no picture of this study in {tmp_path}/files; is image_folder right?; "
        "row 7, column 'study_id': '../../x', '1' is no patient and study; "
        "row 8, column 'study_id': '', '57375967' is no patient and study; "
        "row 9, column 'Atelectasis': label value 'q' is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 9, column 'study_id': no picture of this study in {tmp_path}/files; is image_folder right?"
    )
