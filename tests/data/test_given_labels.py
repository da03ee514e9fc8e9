import numpy as np
import pandas as pd
import pytest

from halflabel import HalflabelError, LabelSpace
from halflabel.data.given_labels import read_given

SPACE = LabelSpace(["red", "blue", "stop sign"])


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / "photos" / name for name in ("a.png", "b.png", "deep/a.png", "deep/c.png")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return paths


def read(folder, files, text, name="given.csv"):
    (folder / name).write_text(text)
    return read_given(folder / name, files, SPACE).tolist()


def test_what_is_known_is_put_to_its_picture_and_its_label(tmp_path, files):
    found = read(tmp_path, files, "file_name,stop sign,red,split\nb.png,1,,test\nphotos/a.png,,0,\nc.png,0,-1,\n")
    assert found == [[0, -100, -100], [-100, -100, 1], [-100, -100, -100], [-100, -100, 0]]


def test_a_name_is_seen_from_the_tables_folder_before_it_is_the_end_of_a_path(tmp_path, files):
    for folder, row in ((tmp_path / "photos", 0), (tmp_path / "photos" / "deep", 2)):
        found = np.array(read(folder, files, "file_name,red\n./a.png,1\n"))
        assert found[:, 0].tolist() == [1 if i == row else -100 for i in range(4)]


def test_files_may_be_given_relative_to_where_one_is(tmp_path, files, monkeypatch):
    monkeypatch.chdir(tmp_path)
    relative = [path.relative_to(tmp_path) for path in files]
    assert read(tmp_path / "photos", relative, "file_name,red\nb.png,1\n")[1][0] == 1
    (tmp_path / "else.csv").write_text(f"file_name,red\n{files[3]},0\n")
    assert read_given("else.csv", relative, SPACE)[3, 0] == 0


@pytest.mark.parametrize("ending", [".csv.gz", ".tsv", ".parquet", ".jsonl"])
def test_the_table_may_have_any_ending(tmp_path, files, ending):
    frame = pd.DataFrame({"file_name": ["b.png", "c.png"], "blue": [1, 0]})
    path = tmp_path / f"given{ending}"
    if ending == ".parquet":
        frame.to_parquet(path)
    elif ending == ".jsonl":
        frame.to_json(path, orient="records", lines=True)
    else:
        frame.to_csv(path, index=False, sep="\t" if ending == ".tsv" else ",")
    assert read_given(path, files, SPACE)[:, 1].tolist() == [-100, 1, -100, 0]


def test_names_that_fit_no_picture_are_counted(tmp_path, files, caplog):
    read(tmp_path, files, "file_name,red\nb.png,1\nx.png,1\nother/a.png,1\n")
    (record,) = caplog.records
    assert record.getMessage().endswith("given.csv: 2 of 3 file names fit no picture: x.png, other/a.png")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file_name,rad\nb.png,1\n", "the model answers no label 'rad'; did you mean red"),
        ("file,red\nb.png,1\n", "no column 'file_name'; .*did you mean file"),
        ("file_name,red\nb.png,2\n", "label value '2' is not 1, 0 or unknown"),
        ("file_name,red\nb.png,1\nb.png,0\n", "'b.png' is already in row 2"),
        ("file_name,red\nb.png,1\nphotos/b.png,1\n", "'b.png' and 'photos/b.png' are the same picture"),
        (
            "file_name,red\na.png,1\n",
            "file name 'a.png' fits several pictures, .*photos/a.png, .*deep/a.png; give more of its path",
        ),
        ("file_name,red\nx.png,1\ny.png,0\n", "none of its 2 file names fits a picture, like 'x.png'"),
    ],
)
def test_faults_are_one_line_that_names_the_table(tmp_path, files, text, message):
    with pytest.raises(HalflabelError, match=f"given.csv(: |, row ., column .*: ){message}") as error:
        read(tmp_path, files, text)
    assert len(str(error.value).splitlines()) == 1


def test_a_table_that_is_not_there_is_named(tmp_path, files):
    with pytest.raises(HalflabelError, match="nowhere.csv"):
        read_given(tmp_path / "nowhere.csv", files, SPACE)
