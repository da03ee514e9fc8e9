import json

import pytest
import timm
from safetensors.torch import save_file

from halflabel_cli import main


@pytest.fixture
def weight_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), path)
    return str(path)


def test_advise_prints_a_summary_and_writes_the_report(colour_table, weight_file, tmp_path, capsys):
    (colour_table.parent / "031.png").write_text("no picture")
    asked = ["advise", str(colour_table), "--backbone", "test_resnet", "nope", "--weights", weight_file]
    asked += ["--output", str(tmp_path / "new" / "report")]
    assert main([*asked, "--bad_images", "skip"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert len(shown) < 40
    assert shown[-1] == f"written: {tmp_path}/new/report.html, {tmp_path}/new/report.json"
    advice = json.loads((tmp_path / "new" / "report.json").read_text())
    assert (advice["images"], len(advice["unreadable"])) == (31, 1)
    assert any("nope" in line for line in shown)
    assert "1 that cannot be read" in " ".join(shown)
    assert "test_resnet" in (tmp_path / "new" / "report.html").read_text()


def test_a_picture_that_cannot_be_read_ends_it_unless_it_may_be_left_out(colour_table, weight_file, tmp_path, capsys):
    (colour_table.parent / "031.png").write_text("no picture")
    asked = ["advise", str(colour_table), "--backbone", "test_resnet", "--weights", weight_file]
    assert main([*asked, "--output", str(tmp_path / "report")]) == 2
    assert "031.png" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "report.json").exists()


def test_advice_without_any_backbone_is_written_and_ends_in_an_error_that_says_why(colour_table, tmp_path, capsys):
    asked = ["advise", str(colour_table), "--backbone", "nope", "--output", str(tmp_path / "report")]
    assert main(asked) == 2
    out, err = capsys.readouterr()
    assert "written: " in out
    assert err.splitlines()[-1].startswith(
        "halflabel: error: nothing was measured, as no backbone could be loaded: timm knows no backbone 'nope'"
    )


def test_mistakes_end_in_one_line_and_code_2(colour_table, weight_file, tmp_path, capsys):
    asked = ["--backbone", "test_resnet", "--weights", weight_file, "--output"]
    assert main(["advise", str(tmp_path / "none.csv"), *asked, str(tmp_path / "report")]) == 2
    assert main(["advise", str(colour_table), *asked, str(tmp_path)]) == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 2
    assert "is a folder; give the name of a file" in told[1]
    assert main(["advise", str(colour_table), "--budget", "quik"]) == 2
    assert "invalid choice: 'quik'" in capsys.readouterr().err
