import json
import os
import time
from pathlib import Path

import forked
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from bad_files import change_in_secret
from in_use import in_use
from killed_runs import halflabel
from PIL import Image

from halflabel import DecisionRule, HalflabelError
from halflabel.model.decisions import NEVER
from halflabel.share.trained import load
from halflabel.use.predict import Scorer, find_images, predict, score_to
from halflabel_cli import main

READERS = {"csv": lambda path: pd.read_csv(path, keep_default_na=False), "parquet": pd.read_parquet,
           "jsonl": lambda path: pd.read_json(path, lines=True)}  # fmt: skip


@pytest.fixture
def pictures(colour_table):
    return [str(path) for path in sorted(colour_table.parent.glob("*.png"))]


def test_scores_are_the_models_own_in_the_order_of_the_files(saved_model, pictures):
    frame = predict(saved_model, pictures[:7], batch_size=3)
    loaded = load(saved_model)
    with torch.no_grad():
        pixels = loaded.processor([Image.open(path) for path in pictures[:7]])["pixel_values"]
        scores = loaded.model(pixels).logits.sigmoid()
    assert frame.attrs["skipped"] == []
    assert frame["file_name"].tolist() == pictures[:7]
    np.testing.assert_allclose(frame[["red", "blue"]].to_numpy(), scores.numpy(), rtol=1e-4)


def test_a_name_that_is_not_utf_8_is_skipped_and_no_name_moves_the_cursor(saved_model, pictures, tmp_path, capsys):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in (b"a.png", b"b\xff.png", b"c\x1b[2J.png"):
        (folder / os.fsdecode(name)).write_bytes(Path(pictures[0]).read_bytes())
    (folder / "d\x1b[2J\u202e\n.png").write_bytes(b"no picture")
    assert main(["predict", saved_model, str(folder), "--output", str(tmp_path / "s.csv")]) == 3
    shown = capsys.readouterr()
    assert "scored 2 of 4 pictures" in shown.out
    lines = [line for line in shown.err.splitlines() if line.startswith("skipped: ")]
    assert lines == [
        rf"skipped: image {folder}/b\xff.png cannot be read: its name is not UTF-8",
        rf"skipped: image {folder}/d\x1b[2J\u202e\n.png cannot be read: it is not a picture of a known format",
    ]
    assert pd.read_csv(tmp_path / "s.csv")["file_name"].tolist() == [f"{folder}/a.png", f"{folder}/c\x1b[2J.png"]


def test_a_picture_that_became_a_pipe_is_skipped(saved_model, pictures, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    table, skipped = Scorer(saved_model).score([pictures[0], str(tmp_path / "pipe.png")])
    assert (len(table), skipped) == (1, [f"image {tmp_path}/pipe.png cannot be read: it is no file"])


def test_a_subset_of_labels(saved_model, pictures):
    frame = predict(saved_model, pictures[:2], labels=["blue"])
    assert list(frame.columns) == ["file_name", "answered_yes", "blue"]
    with pytest.raises(HalflabelError, match="did you mean blue"):
        predict(saved_model, pictures[:2], labels=["blu"])


def test_an_unreadable_file_is_reported_and_the_others_are_scored(saved_model, pictures, tmp_path, caplog):
    bad = tmp_path / "bad.png"
    bad.write_text("not a picture")
    frame = predict(saved_model, [pictures[0], bad, pictures[1]])
    assert len(frame) == 2
    (skipped,) = frame.attrs["skipped"]
    assert "bad.png" in skipped
    assert f"skipped: {skipped}" in caplog.text
    frame = predict(saved_model, [bad])
    assert list(frame.columns) == ["file_name", "answered_yes", "red", "blue"]
    assert len(frame) == 0


def test_stored_decisions_are_applied_also_to_a_subset_of_labels(tiny_model, saved_model, pictures):
    plain = predict(saved_model, pictures[:6])
    assert plain["answered_yes"].tolist() == [
        [name for name in ("red", "blue") if row[name] >= 0.5] for _, row in plain.iterrows()
    ]
    middle = float(plain["blue"].median())
    shift = -2 * np.log(middle / (1 - middle))
    rule = DecisionRule.plain(2).to_dict() | {"scale": [1.0, 2.0], "shift": [0.0, shift], "thresholds": [NEVER, 0.5]}
    tiny_model.config.decisions = rule
    tiny_model.save_pretrained(saved_model)
    frame = predict(saved_model, pictures[:6], labels=["blue", "red"])
    logits = np.log(plain["blue"] / (1 - plain["blue"]))
    np.testing.assert_allclose(frame["blue"], 1 / (1 + np.exp(-2 * logits - shift)), rtol=1e-6)
    np.testing.assert_allclose(frame["red"], plain["red"], rtol=1e-6)
    assert frame["answered_yes"].tolist() == [["blue"] if score >= 0.5 else [] for score in frame["blue"]]
    assert len({str(names) for names in frame["answered_yes"]}) == 2


def test_a_picture_that_pillow_cannot_read_is_told_and_not_passed_over(saved_model, tmp_path):
    for name in ("a.HEIC", "b.dng", "notes.txt"):
        (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 40)
    Image.new("RGB", (40, 30)).save(tmp_path / "c.png")
    table = predict(saved_model, tmp_path)
    assert len(table) == 1
    assert [Path(line.split()[1]).name for line in table.attrs["skipped"]] == ["a.HEIC", "b.dng"]


def test_folder_glob_and_files(pictures, tmp_path):
    folder = Path(pictures[0]).parent
    (folder / "notes.txt").write_text("x")
    assert find_images([str(folder)]) == pictures
    assert find_images([str(folder / "00*.png")]) == pictures[:10]
    assert find_images([pictures[1], f"{folder}/./{Path(pictures[0]).name}", pictures[1]]) == [pictures[1], pictures[0]]
    (folder / "inner.png").mkdir()
    for name in ("inner.png/z.PNG", "inner.png/a.jpg"):
        (folder / name).write_bytes(b"")
    assert find_images([f"{folder}/"]) == [*pictures, f"{folder}/inner.png/a.jpg", f"{folder}/inner.png/z.PNG"]
    with pytest.raises(HalflabelError, match="no pictures"):
        find_images([str(folder / "*.tif")])


@pytest.fixture
def ten(colour_table):
    files = [str(path) for path in sorted(colour_table.parent.glob("*.png"))[:10]]
    Path(files[4]).write_text("not a picture")
    return files


@pytest.fixture
def expected(saved_model, ten):
    frame = predict(saved_model, ten)
    assert (len(frame), len(frame.attrs["skipped"])) == (9, 1)
    return frame


def run(model, files, output, *options):
    return main(["predict", model, *files, "--output", str(output), "--part_size", "3", *options])


def command(model, files, output, *options):
    return ["predict", model, *files, "--output", str(output), "--part_size", "1", *options]


def check(frame, expected):
    assert frame["file_name"].tolist() == expected["file_name"].tolist()
    answers = [
        list(filter(None, value.split("|"))) if isinstance(value, str) else list(value)
        for value in frame["answered_yes"]
    ]
    assert answers == [list(value) for value in expected["answered_yes"]]
    np.testing.assert_allclose(frame[["red", "blue"]], expected[["red", "blue"]], rtol=1e-6)  # batches differ


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_one_file_holds_all_parts_in_the_order_of_the_pictures(saved_model, ten, expected, ending, tmp_path, capsys):
    output = tmp_path / "deep" / f"scores.{ending}"
    assert run(saved_model, ten, output) == 3  # one was skipped
    shown = capsys.readouterr()
    assert "scored 9 of 10 pictures" in shown.out
    assert "004.png cannot be read" in shown.err
    check(READERS[ending](output), expected)
    assert os.listdir(output.parent) == [output.name]  # the parts are gone


def test_a_folder_holds_parts_that_are_read_as_one(saved_model, ten, expected, tmp_path):
    assert run(saved_model, ten, f"{tmp_path}/parts/") == 3
    check(pd.read_parquet(tmp_path / "parts"), expected)
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "parts").glob("part-*.parquet"))]
    assert sizes == [3, 2, 3, 1]  # a picture that is skipped leaves a gap, and moves no other one


def test_labels_answered_with_yes_are_taken_apart_from_csv(saved_model, ten, tmp_path):
    run(saved_model, ten, tmp_path / "s.csv")
    frame = READERS["csv"](tmp_path / "s.csv")
    found = frame["answered_yes"].str.get_dummies().reindex(columns=["red", "blue"], fill_value=0)
    assert found.to_numpy().tolist() == (frame[["red", "blue"]] >= 0.5).astype(int).to_numpy().tolist()


def test_what_is_written_is_not_made_again(saved_model, ten, expected, tmp_path, capsys):
    folder = tmp_path / "parts"
    run(saved_model, ten, f"{folder}/")
    kept = folder / "part-000001.parquet"  # the part with the unreadable picture
    before = kept.stat().st_ino
    (folder / "part-000000.parquet").unlink()
    (folder / "_part-000002.parquet").write_bytes(b"half written")
    capsys.readouterr()
    assert run(saved_model, ten, f"{folder}/", "--resume") == 3
    shown = capsys.readouterr()
    assert "scored 9 of 10 pictures" in shown.out
    assert "004.png cannot be read" in shown.err  # also told of by a run that did not meet it
    assert kept.stat().st_ino == before
    check(pd.read_parquet(folder), expected)


def test_damaged_parts_are_made_again_and_a_damaged_description_is_one_line(
    saved_model, ten, expected, tmp_path, capsys, caplog
):
    folder = tmp_path / "parts"
    run(saved_model, ten, f"{folder}/")
    cut, flipped, whole, _ = sorted(folder.glob("part-*"))
    before, content = whole.stat().st_ino, flipped.read_bytes()
    cut.write_bytes(cut.read_bytes()[:-100])
    at = content.index(np.float64(pq.read_table(flipped)["red"][0].as_py()).tobytes())
    flipped.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    with caplog.at_level("WARNING", "halflabel"):
        assert run(saved_model, ten, f"{folder}/", "--resume") == 3
    assert [line.split(" is ")[0] for line in caplog.messages if "made again" in line] == [str(cut), str(flipped)]
    assert whole.stat().st_ino == before
    check(pd.read_parquet(folder), expected)
    (folder / "_predict.json").write_text("{")
    capsys.readouterr()
    assert run(saved_model, ten, f"{folder}/", "--resume") == 2
    assert (
        f"_predict.json is damaged, so nobody knows what the parts are of: remove {folder}" in capsys.readouterr().err
    )


def test_parts_of_something_else_are_refused(saved_model, ten, tmp_path, capsys):
    output = f"{tmp_path}/parts/"
    run(saved_model, ten, output)
    capsys.readouterr()
    for options, told in (
        ((ten,), "holds an earlier run: add --resume"),
        ((ten[:9], "--resume"), "a run of other pictures, files"),
        ((ten, "--resume", "--labels", "red"), "a run of other labels"),
        ((ten, "--resume", "--no_fast_decode"), "a run of other decoded_for"),
    ):
        assert run(saved_model, options[0], output, *options[1:]) == 2
        assert told in capsys.readouterr().err
    change_in_secret(Path(ten[0]))
    assert run(saved_model, ten, output, "--resume") == 2
    assert "a run of other files" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert run(saved_model, ten, f"{tmp_path}/mine/") == 2
    assert "holds other files" in capsys.readouterr().err


def test_what_another_process_is_writing_is_left_to_it(saved_model, ten, tmp_path, capsys):
    for output in (tmp_path / "scores.csv", f"{tmp_path}/parts/"):
        parts = f"{output}.parts" if output == tmp_path / "scores.csv" else output.rstrip("/")
        with in_use(parts) as other:
            assert run(saved_model, ten, output, "--resume") == 2
        assert f"halflabel: error: {parts} is in use by process {other} on " in capsys.readouterr().err
        assert run(saved_model, ten, output) == 3


def test_parts_of_other_weights_are_refused(tiny_model, saved_model, ten, tmp_path):
    score_to(Scorer(saved_model), ten, f"{tmp_path}/parts/")
    next(tiny_model.head.parameters()).data += 1
    tiny_model.save_pretrained(saved_model)
    with pytest.raises(HalflabelError, match="a run of other model"):
        score_to(Scorer(saved_model), ten, f"{tmp_path}/parts/", resume=True)


def test_a_finished_file_is_not_scored_again(saved_model, ten, tmp_path, capsys):
    output = tmp_path / "s.csv"
    run(saved_model, ten, output)
    output.write_text("mine")
    assert run(saved_model, ten, output, "--resume") == 0
    assert output.read_text() == "mine"
    assert "nothing to go on with" in capsys.readouterr().out


def test_a_killed_run_goes_on(saved_model, ten, expected, tmp_path):
    output = tmp_path / "s.csv"
    run = forked.start(main, command(saved_model, ten, output), output=tmp_path / "output.txt")
    while run.is_alive() and not list(tmp_path.glob("s.csv.parts/part-*")):
        time.sleep(0.001)
    run.kill()
    run.join()
    assert not output.exists()
    assert main([*command(saved_model, ten, output), "--resume"]) == 3
    check(READERS["csv"](output), expected)


def test_a_disk_that_fills_keeps_the_finished_parts(saved_model, ten, tmp_path):
    ten = find_images([Path(ten[0]).parent])
    score_to(Scorer(saved_model), ten, f"{tmp_path}/whole/", part_size=1)
    expected = pd.read_parquet(tmp_path / "whole")
    part = max(path.stat().st_size for path in (tmp_path / "whole").iterdir())
    whole = len(expected.to_json(orient="records", lines=True))
    assert part < whole
    output = tmp_path / "s.jsonl"
    arguments = command(saved_model, ten, output, "--quiet")  # or the progress of a slow machine grows too large
    assert halflabel(arguments, tmp_path / "output.txt", largest_file=part) == 2
    last = (tmp_path / "output.txt").read_text().strip().splitlines()[-1]
    assert last.startswith("halflabel: error: ")
    assert last.endswith(f"finished parts are kept in {output}.parts: go on with --resume")
    assert len(list(Path(f"{output}.parts").glob("part-*"))) == len(ten)
    assert not output.exists()
    assert main([*arguments, "--resume"]) == 3
    check(READERS["jsonl"](output), expected)


def test_two_processes_share_the_parts(saved_model, ten, expected, tmp_path):
    arguments = command(saved_model, ten, tmp_path / "s.parquet")
    printed = "".join(forked.in_two_processes(main, arguments, folder=tmp_path, code=3))
    check(pd.read_parquet(tmp_path / "s.parquet"), expected)
    assert printed.count("scored 9 of 10 pictures") == 1
    bars = [line for line in printed.replace("\r", "\n").splitlines() if line.startswith("predict: ")]
    assert bars
    assert all(" 5/5 " in line or "/5 " in line for line in bars)  # of its own parts alone


def test_a_part_without_a_readable_picture_has_the_same_columns(saved_model, ten, tmp_path):
    run(saved_model, [ten[4]], tmp_path / "s.parquet")
    frame = pd.read_parquet(tmp_path / "s.parquet")
    assert frame.columns.tolist() == ["file_name", "answered_yes", "red", "blue"]
    assert len(frame) == 0


def test_the_description_of_a_run_holds_no_path(saved_model, ten, tmp_path):
    score_to(Scorer(saved_model), ten, f"{tmp_path}/parts/")
    about = json.loads((tmp_path / "parts" / "_predict.json").read_text())
    assert str(tmp_path) not in json.dumps(about)


def test_a_program_writes_the_same_and_goes_on(saved_model, ten, expected, tmp_path):
    output = tmp_path / "s.csv"
    model = load(saved_model)
    assert model.predict(ten, output, part_size=3) == output
    check(READERS["csv"](output), expected)
    assert predict(model, Path(ten[0]).parent)["file_name"].tolist()[:4] == ten[:4]
    frame = pd.DataFrame({"file_name": [Path(ten[1]).name, Path(ten[0]).name]})
    check(predict(model, frame, image_folder=str(Path(ten[0]).parent)), expected.iloc[[1, 0]])
    with pytest.raises(HalflabelError, match="ends in none of .csv"):
        predict("nowhere", ten, "scores.txt")
