import gzip

import pytest

from halflabel import HalflabelError
from halflabel.data.readers.label_files import FINDINGS, read_chexpert
from halflabel.data.source import Source

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)  # as in CheXpert-v1.0-small/train.csv
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
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def error_of(path, **keys):
    with pytest.raises(HalflabelError) as error:
        read_chexpert(Source(str(path), **keys))
    assert len(str(error.value).splitlines()) == 1
    return str(error.value).removeprefix(str(path))


@pytest.fixture
def chexpert(tmp_path):
    touch(tmp_path, PICTURES)
    path = tmp_path / "CheXpert-v1.0-small" / "train.csv"
    path.write_text(f"{HEADER}\n{ROWS}")
    return path


def test_chexpert_as_it_is_unpacked(chexpert, tmp_path):
    images = read_chexpert(Source(str(chexpert)))
    assert images.label_space.names == FINDINGS == tuple(HEADER.split(",")[5:])
    assert images.labels.tolist() == MATRIX
    assert images.column("split").tolist() == ["train"] * 3
    assert images.column("group").tolist() == ["patient00001", "patient00002", "patient00002"]
    assert images.column("file_name").tolist() == PICTURES
    assert [row["path"] for row in images.dataset["image"]] == [str(tmp_path / name) for name in PICTURES]


def test_the_validation_file_says_its_split_by_its_paths(tmp_path):
    picture = "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg"
    touch(tmp_path, [picture])
    path = tmp_path / "CheXpert-v1.0-small" / "valid.csv"
    path.write_text(f"{HEADER}\n{picture},Male,73,Frontal,AP,{','.join(['0.0', '1.0'] * 7)}\n")
    images = read_chexpert(Source(str(path)))
    assert images.labels.tolist() == [[0, 1] * 7]
    assert images.column("split").tolist() == ["validation"]


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
    images = read_chexpert(Source(str(path), image_folder=given))
    assert images.labels.tolist() == MATRIX
    assert images.column("file_name").tolist() == PICTURES


def test_minus_one_stays_uncertain_beside_other_values(chexpert):
    chexpert.write_text(chexpert.read_text().replace("68,Frontal,AP,1.0", "68,Frontal,AP,?"))
    images = read_chexpert(Source(str(chexpert), uncertain_values=("?",)))
    assert images.labels.tolist() == [[U, *MATRIX[0][1:]], *MATRIX[1:]]


def test_a_file_with_some_of_the_findings(tmp_path):
    touch(tmp_path, ["x/a.jpg"])
    (tmp_path / "t.csv").write_text("Fracture,Path,Edema\n1.0,x/a.jpg,-1\n")
    images = read_chexpert(Source(str(tmp_path / "t.csv")))
    assert images.label_space.names == ("Edema", "Fracture")
    assert images.labels.tolist() == [[U, 1]]
    assert (images.column("split")[0], images.column("group")[0]) == ("", "")
    (tmp_path / "t.csv").write_text("Path,Cough\nx/a.jpg,1\n")
    assert error_of(tmp_path / "t.csv") == ": none of the 14 CheXpert findings is a column"
    (tmp_path / "t.csv").write_text("File,Edema\nx/a.jpg,1\n")
    assert error_of(tmp_path / "t.csv").startswith(": no column 'subject_id'")


def test_faults_of_chexpert_are_told_at_once(chexpert, tmp_path):
    gone = PICTURES[1].replace("view1", "view9")
    rows = "\n".join(
        f"{name},,,,,{cells}" + "," * 13
        for name, cells in ((PICTURES[0], "2.0"), (PICTURES[0], "1.0"), (gone, "0.0"),
                            ("../x.jpg", ""), ("/etc/x.jpg", "0"), ("", "1"))
    )  # fmt: skip
    chexpert.write_text(f"{HEADER}\n{rows}\n")
    assert error_of(chexpert) == (
        ", row 2, column 'No Finding': label value '2.0' is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 3, column 'Path': {PICTURES[0]!r} is already in row 2; "
        f"row 4, column 'Path': no image {gone!r} in {tmp_path}; "
        f"row 5, column 'Path': '../x.jpg' leaves the image folder {tmp_path}; "
        f"row 6, column 'Path': '/etc/x.jpg' leaves the image folder {tmp_path}; "
        "row 7, column 'Path': it is empty; is image_folder right?"
    )


def test_a_path_that_leaves_a_renamed_folder_is_refused(tmp_path):
    touch(tmp_path, ["archive/train/a.jpg", "archive/b.jpg"])
    path = tmp_path / "archive" / "train.csv"
    path.write_text("Path,Edema\nCheXpert/train/a.jpg,1\n../b.jpg,1\n/b.jpg,1\n")
    assert error_of(path) == (
        f", row 3, column 'Path': '../b.jpg' leaves the image folder {tmp_path / 'archive'}; "
        f"row 4, column 'Path': '/b.jpg' leaves the image folder {tmp_path / 'archive'}"
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


@pytest.fixture(params=["csv", "csv.gz"])
def mimic(tmp_path, request):
    touch(tmp_path, [*DICOMS, "files/p10/p10000032/s50414267/index.html"])
    path = tmp_path / f"mimic-cxr-2.0.0-chexpert.{request.param}"
    path.write_bytes(gzip.compress(STUDIES.encode()) if request.param.endswith("gz") else STUDIES.encode())
    return path


MIMIC = [[1, X, 0], [1, X, 0], [X, U, X], [X, 1, U]]  # in the order of FINDINGS: Cardiomegaly, Atelectasis, Edema


def reordered():
    return [[row[0], row[2], row[1]] for row in MIMIC]  # Cardiomegaly, Edema, Atelectasis


def test_mimic_gives_every_picture_its_study_s_labels(mimic, tmp_path):
    images = read_chexpert(Source(str(mimic)))
    assert images.label_space.names == ("Cardiomegaly", "Edema", "Atelectasis")
    assert images.labels.tolist() == reordered()
    assert images.column("file_name").tolist() == DICOMS
    assert images.column("group").tolist() == ["p10000032"] * 3 + ["p10000764"]
    assert images.column("split").tolist() == [""] * 4
    assert images.dataset[3]["image"]["path"] == str(tmp_path / DICOMS[3])


@pytest.mark.parametrize("name", ["mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz"])
def test_mimic_s_split_file_is_used_where_it_lies_beside(mimic, tmp_path, name):
    (tmp_path / name).write_bytes(gzip.compress(SPLITS.encode()) if name.endswith("gz") else SPLITS.encode())
    assert read_chexpert(Source(str(mimic))).column("split").tolist() == ["train", "train", "validation", "test"]
    assert read_chexpert(Source(str(mimic))).labels.tolist() == reordered()


def test_faults_of_mimic_s_split_file(mimic, tmp_path):
    file = tmp_path / "mimic-cxr-2.0.0-split.csv"
    file.write_text(SPLITS.replace("2a2277a9,53189527,10000032,validate\n", ""))
    assert error_of(mimic) == f", row 3, column 'study_id': {DICOMS[2]} is not in the split file"
    assert (
        read_chexpert(Source(str(mimic), split="test")).labels.tolist() == reordered()
    )  # the caller's split is enough
    file.write_text(SPLITS + "02aa804e,50414267,10000032,test\n096052b7,57375967,10000764,tets\n")
    with pytest.raises(HalflabelError) as error:
        read_chexpert(Source(str(mimic)))
    assert str(error.value) == (
        f"{file}, row 7, column 'dicom_id': '02aa804e' is already in row 2 (train and test); "
        "row 8, column 'split': split 'tets' is none of train, validation, test; did you mean test?; "
        "row 8, column 'dicom_id': '096052b7' is already in row 5 (test and none)"
    )
    (tmp_path / "mimic-cxr-2.1.0-split.csv").write_text(SPLITS)
    assert "several split files lie beside it: mimic-cxr-2.0.0-split.csv, mimic-cxr-2.1.0-split.csv" in error_of(mimic)


def test_mimic_s_pictures_may_lie_elsewhere(mimic, tmp_path):
    for place in ("images", "elsewhere"):
        (tmp_path / place).mkdir()
        (tmp_path / ("files" if place == "images" else "images/files")).rename(tmp_path / place / "files")
        given = None if place == "images" else str(tmp_path / place)
        images = read_chexpert(Source(str(mimic), image_folder=given))
        assert images.labels.tolist() == reordered()
        assert images.dataset[0]["image"]["path"] == str(tmp_path / place / DICOMS[0])


def test_faults_of_mimic_are_told_at_once(tmp_path):
    touch(tmp_path, DICOMS)
    path = tmp_path / "t.csv"
    path.write_text(
        STUDIES + "10000032,50414267,,1.0,0.0\n10000032,99999999,1.0,,\n../../x,1,1.0,,\n,57375967,,,\n10000764,5,q,,\n"
    )
    assert error_of(path) == (
        ", row 5, column 'study_id': '50414267' is already in row 2; "
        f"row 6, column 'study_id': no picture of this study in {tmp_path}/files; is image_folder right?; "
        "row 7, column 'study_id': '../../x', '1' is no patient and study; "
        "row 8, column 'study_id': '', '57375967' is no patient and study; "
        "row 9, column 'Atelectasis': label value 'q' is not 1, 0 or unknown (empty, NaN, -1); "
        f"row 9, column 'study_id': no picture of this study in {tmp_path}/files; is image_folder right?"
    )


def test_numbers_that_pandas_made_floats(tmp_path):
    touch(tmp_path, DICOMS)
    (tmp_path / "t.csv").write_text("subject_id,study_id,Edema\n10000764.0,57375967.0,1.0\n")
    assert read_chexpert(Source(str(tmp_path / "t.csv"))).column("file_name").tolist() == [DICOMS[3]]
