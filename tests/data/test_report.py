import json

import pytest
from PIL import Image
from reading import write_files

from halflabel.data.loading import load_sources, parse_sources
from halflabel.data.report import describe, render
from halflabel_cli import main

ONE_EACH = {"known": 2, "positive": 1, "negative": 1, "uncertain": 0}


@pytest.fixture
def sources(tmp_path):
    """Two teams: signs and cars; they share b.jpg and contradict each other about its car."""
    for i, (name, colour) in enumerate({"a.jpg": "red", "b.jpg": "green", "c.png": "blue", "d.jpg": "white"}.items()):
        Image.new("RGB", (40 + 10 * i, 30), colour).save(tmp_path / name)
    Image.new("L", (40, 30)).save(tmp_path / "grey.png")
    whole = (tmp_path / "a.jpg").read_bytes()
    write_files(tmp_path, {
        "copy.jpg": whole, "bad.jpg": whole[:200],
        "signs.csv": "file_name,stop sign,car,yield,split\na.jpg,1,,,train\nb.jpg,0,1,,train\ncopy.jpg,0,0,,train\n"
                     "bad.jpg,0,,,test\ngrey.png,,,,train\n",
        "cars.csv": "file_name,car,Stop-Sign\nb.jpg,0,1\nc.png,1,\nd.jpg,-1,0\n",
    })  # fmt: skip
    return [str(tmp_path / "signs.csv"), str(tmp_path / "cars.csv")]


def report_of(sources, **keys):
    return describe(*load_sources(parse_sources(sources), **keys), quiet=True)


def test_the_report_counts_per_source_and_lists_what_is_wrong(sources):
    report = report_of(sources, contradictions="unknown")
    expected = {
        "images": 7, "splits": {"train": 4, "test": 1, "not given": 2}, "never_asked": ["yield"], "one_answer": [],
        "unannotated": ["grey.png"], "joined": 1, "similar_names": [["stop sign", "Stop-Sign"]],
        "sizes": {"width": [40, 45, 70], "height": [30, 30, 30]}, "formats": {"JPEG": 4, "PNG": 2},
        "modes": {"RGB": 5, "L": 1}, "duplicates": [["a.jpg", "copy.jpg"]],
    }  # fmt: skip
    assert {key: report[key] for key in expected} == expected
    assert report["labels"]["car"] == ONE_EACH
    first, second = (report["sources"][source] for source in sources)
    assert (first["images"], first["labels"]["car"]) == (5, ONE_EACH)
    assert second["labels"] == {"car": ONE_EACH, "Stop-Sign": ONE_EACH}
    stop, car = "'a.jpg' = 'copy.jpg': 'stop sign' is 1 and 0", "'b.jpg': 'car' is 1 and 0"
    assert [text.split(" (")[0] for text in report["contradictions"]] == [stop, car]
    assert [text.split(" (")[0] for text in report_of(sources[0])["contradictions"]] == [stop]
    (unreadable,) = report["unreadable"]
    assert unreadable.startswith("image bad.jpg cannot be read: ")
    text = render(report)
    for part in (
        "7 images; train: 4, test: 1, without a split: 2",
        "joined: 1 images",
        "labels without a known entry (1): yield",
        "images with equal content (1): a.jpg = copy.jpg",
        "unreadable files (1): image bad.jpg",
        "contradictions (2): 'a.jpg' = 'copy.jpg'",
    ):
        assert part in text


def test_a_label_with_one_answer_only_is_listed_with_it(sources, tmp_path):
    (tmp_path / "one.csv").write_text("file_name,sign,car,van,bus\na.jpg,1,0,1,\nb.jpg,1,,0,\n")
    report = report_of(str(tmp_path / "one.csv"))
    assert report["one_answer"] == ["sign (yes)", "car (no)"]
    assert "only ever yes, or only ever no, and cannot be measured (2): sign (yes); car (no)" in render(report)


def test_no_picture_is_opened_for_a_plot_that_cannot_be_drawn(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("halflabel.share.plots.find_spec", lambda name: None)
    assert main(["data", *sources, "--plot", str(tmp_path / "p.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "halflabel: error: pictures need matplotlib: pip install 'halflabel[plots]'\n"


def test_the_command_reports_draws_and_writes(sources, tmp_path, capsys):
    report, picture = tmp_path / "r.json", tmp_path / "p.png"
    command = ["data", *sources, "--report", str(report), "--plot", str(picture)]
    assert main(command) == 3  # a file was unreadable
    printed = capsys.readouterr().out
    assert "source " in printed
    assert json.loads(report.read_text())["labels"]["stop sign"]["known"] == 4
    assert Image.open(picture).size[0] > 600
    assert main([*command, "--labels_only"]) == 0
    assert "unreadable" not in json.loads(report.read_text())


def test_contradictions_stop_what_is_written_until_a_policy_is_named(sources, tmp_path, capsys):
    output = str(tmp_path / "m.parquet")
    assert main(["data", *sources, "--labels_only", "--output", output]) == 2
    assert "'car' is 1 and 0" in capsys.readouterr().err
    assert main(["data", *sources, "--labels_only", "--output", output, "--contradictions", "first"]) == 0
    capsys.readouterr()
    assert main(["data", output, "--labels_only", "--image_folder", str(tmp_path)]) == 0
    again = capsys.readouterr().out
    rows = [line.split()[1:] for line in again.splitlines() if line.startswith("car ")]
    assert rows[-1] == ["3", "2", "1", "0"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "m.csv"], "end it in .parquet"),
        (["--contradictions", "frist"], "did you mean first"),
        (["--image_folder", "nowhere"], "no such folder"),
    ],
)
def test_mistakes_of_the_command(sources, arguments, message, capsys):
    assert main(["data", *sources, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_source_with_options_is_json(sources, tmp_path, capsys):
    given = json.dumps({"path": sources[1], "label_map": {"Stop-Sign": "stop sign"}, "name": "cars"})
    assert main(["data", given, "--labels_only", "--report", str(tmp_path / "r.json")]) == 0
    assert set(json.loads((tmp_path / "r.json").read_text())["sources"]) == {"cars"}
    assert main(["data", '{"path": ']) == 2
    assert "is not JSON" in capsys.readouterr().err


def test_many_labels_are_cut_in_the_table_and_whole_in_the_report():
    labels = {f"label {i}": {"known": i, "positive": 0, "negative": i, "uncertain": 0} for i in range(100)}
    text = render({"images": 1, "splits": {}, "labels": labels, "sources": {}, "joined": 0})
    assert "label 39 " in text
    assert "label 40 " not in text
    assert "and 60 more labels" in text
