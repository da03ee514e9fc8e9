import subprocess
import sys
from importlib.metadata import entry_points

import pandas as pd
import pytest
import yaml

from halflabel_cli import build_parser, main

BASE = {
    "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
    "num_train_epochs": 1, "disable_tqdm": True, "report_to": "none",
}  # fmt: skip


@pytest.fixture
def trained(colour_table, tmp_path, capsys):
    (tmp_path / "my.yaml").write_text(
        yaml.safe_dump({**BASE, "data": str(colour_table), "output_dir": str(tmp_path / "out")})
    )
    assert main(["train", str(tmp_path / "my.yaml")]) == 0
    output = capsys.readouterr().out
    assert "red" in output
    assert "mAP" in output
    return tmp_path / "out"


def test_train_evaluate_predict(trained, colour_table, tmp_path, capsys):
    assert main(["evaluate", str(trained), "--data", str(colour_table), "--output", str(tmp_path / "m.json")]) == 0
    assert (tmp_path / "m.json").read_text() == (trained / "metrics.json").read_text()
    scores = tmp_path / "scores.csv"
    pictures = str(colour_table.parent / "0*.png")
    assert main(["predict", str(trained), pictures, "--output", str(scores), "--labels", "blue"]) == 0
    assert list(pd.read_csv(scores).columns) == ["file_name", "blue"]
    bad = colour_table.parent / "bad.png"
    bad.write_text("x")
    assert main(["predict", str(trained), pictures, str(bad), "--output", str(scores)]) == 3
    captured = capsys.readouterr()
    assert "scored 48 of 49 pictures" in captured.out
    assert "skipped: image" in captured.err
    assert len(pd.read_csv(scores)) == 48


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "quikstart"], "did you mean quickstart"),
        (["train", "quickstart", "--seeed", "1"], "did you mean seed"),
        (["train", "quickstart", "--backbone", "resnt50"], "timm knows no backbone"),
        (["train", "linear_probe", "--data", "none.csv"], "none.csv: no such file"),
        (["evaluate", "nowhere", "--data", "street_scenes", "--split", "tset"], "did you mean test"),
        (["predict", "nowhere", ".", "--output", "x.xlsx"], ".csv, .jsonl, .parquet"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "quickstart" in arguments:
        arguments = [*arguments, "--max_train_images", "4", "--max_test_images", "2"]
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("halflabel: error: ")
    assert message in error


def test_unknown_arguments_of_other_commands_are_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["predict", "m", "p", "--output", "o.csv", "--colour", "red"])
    assert stop.value.code == 2
    assert "--colour" in capsys.readouterr().err


def test_lists(capsys):
    assert main(["recipes"]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert main(["env"]) == 0
    assert "transformers: " in capsys.readouterr().out


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom halflabel_cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert 'torch' not in sys.modules and 'halflabel' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "train" in done.stdout
    assert entry_points(group="console_scripts")["halflabel"].value == "halflabel_cli:main"
    assert set(build_parser()._subparsers._group_actions[0].choices) == {
        "train",
        "evaluate",
        "predict",
        "data",
        "recipes",
        "env",
    }


def test_the_module_starts_the_command_line():
    done = subprocess.run(
        [sys.executable, "-m", "halflabel.cli", "recipes"], capture_output=True, text=True, check=True
    )
    assert "quickstart" in done.stdout
