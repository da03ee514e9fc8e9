import json
import runpy
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import entry_points

import pandas as pd
import pytest
import torch
import yaml
from killed_runs import small_disk
from PIL import Image

from halflabel.cli.commands import COMMANDS
from halflabel.cli.light import WORDS
from halflabel.data.images import SPLITS
from halflabel.data.merging import CONTRADICTIONS
from halflabel.decide.decision_fitting import CALIBRATIONS
from halflabel.share.export import FORMATS
from halflabel.training.keys import DEFAULTS, choices
from halflabel.training.recipe import parse_recipe
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


def flat(values, name=""):
    """Return the numbers in nested mappings by path."""
    if not isinstance(values, dict):
        return {name: values} if isinstance(values, int | float) else {}
    return {key: leaf for word, inside in values.items() for key, leaf in flat(inside, f"{name}/{word}").items()}


def test_train_evaluate_predict(trained, colour_table, tmp_path, capsys):
    assert main(["evaluate", str(trained), "--data", str(colour_table), "--output", str(tmp_path / "m.json")]) == 0
    again, first = (flat(json.loads(path.read_text())) for path in (tmp_path / "m.json", trained / "metrics.json"))
    assert again == pytest.approx(first, abs=1e-5)
    scores = tmp_path / "scores.csv"
    pictures = str(colour_table.parent / "0*.png")
    assert main(["predict", str(trained), pictures, "--output", str(scores), "--labels", "blue"]) == 0
    assert list(pd.read_csv(scores).columns) == ["file_name", "answered_yes", "blue"]
    bad = colour_table.parent / "bad.png"
    bad.write_text("x")
    assert main(["predict", str(trained), pictures, str(bad), "--output", str(scores)]) == 3
    captured = capsys.readouterr()
    assert "scored 48 of 49 pictures" in captured.out
    assert "skipped: image" in captured.err
    assert len(pd.read_csv(scores)) == 48


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(saved_model, colour_table, tmp_path, capsys):
    out, table = tmp_path / "out", str(colour_table)
    for command in (
        ["review", saved_model, table, "--output", str(out / "review")],
        ["evaluate", saved_model, table, "--output", str(out / "m.json")],
        ["data", table, "--labels_only", "--output", str(out / "t.parquet")],
        ["data", table, "--labels_only", "--output", f"{out}/shards/"],
        ["data", table, "--labels_only", "--plot", str(out / "p.png")],
        ["explain", saved_model, str(colour_table.parent / "000.png"), "--output", str(out / "e.png")],
        ["export", saved_model, "--format", "timm", "--output", str(out / "plain")],
    ):
        out.mkdir()
        with small_disk(5000 if command[0] == "export" else 200):  # the weights fail, or the first file
            assert main(command) == 2, command
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("halflabel: error: ")]
        assert "File too large" in line
        assert not [path for path in out.rglob("*") if path.is_file()], command
        shutil.rmtree(out)


def test_calibrate_then_evaluate_by_its_thresholds(trained, colour_table, tmp_path, capsys):
    source = [str(trained), "--data", str(colour_table)]
    objective = ["--objective", "recall>=0.5", "--split", "train", "--output", str(tmp_path / "report.json")]
    assert main(["calibrate", *source, *objective]) == 0
    shown = capsys.readouterr().out
    assert "the same" in shown  # the numbers are of the entries that the thresholds were fitted on
    stored = json.loads((trained / "config.json").read_text())["decisions"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["threshold"] for row in report["labels"].values()] == stored["thresholds"]
    assert main(["evaluate", *source, "--ci", "0.9", "--output", str(tmp_path / "m.json")]) == 0
    measured = json.loads((tmp_path / "m.json").read_text())
    assert [row["threshold"] for row in measured["labels"].values()] == stored["thresholds"]
    low, high = measured["mAP_interval"]
    assert low <= measured["mAP"] <= high
    assert f"{low:.3f} to {high:.3f}" in capsys.readouterr().out


def test_errors_explain_and_plots_write_what_they_say(trained, colour_table, tmp_path, capsys):
    source = [str(trained), "--data", str(colour_table)]
    assert main(["review", *source, "--output", str(tmp_path / "found"), "--limit", "3"]) == 0
    assert "32 images of split train" in capsys.readouterr().out
    found = pd.read_csv(tmp_path / "found" / "errors.csv")
    assert found.groupby("kind").size().max() <= 3
    assert set(found.loc[found["kind"].str.startswith("unknown"), "known"]) == {"unknown"}
    picture = colour_table.parent / "000.png"
    Image.open(picture).convert("RGBA").save(picture)  # decoded as for predict, so that the score is the same
    assert main(["predict", str(trained), str(picture), "--output", str(tmp_path / "one.csv")]) == 0
    expected = pd.read_csv(tmp_path / "one.csv")["blue"][0]
    capsys.readouterr()
    assert main(["explain", str(trained), str(picture), "--labels", "blue", "--output", str(tmp_path / "why.png")]) == 0
    assert f"(score {expected:.3f})" in capsys.readouterr().out
    assert main(["evaluate", *source, "--plots", str(tmp_path / "plots")]) == 0
    for path in (tmp_path / "found" / "errors.png", tmp_path / "why.png", tmp_path / "plots" / "reliability.png"):
        with Image.open(path) as image:
            assert image.width > 300


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["calibrate", "{model}", "--data", "{data}"], "no image in split 'validation': give pictures"),
        (["calibrate", "{model}", "--data", "{data}", "--split", "train", "--objective", "precision>=2"], "objective"),
        (
            ["calibrate", "{model}", "--data", "{data}", "--split", "train", "--calibration", "plat"],
            "did you mean platt",
        ),
        (["evaluate", "{model}", "--data", "{data}", "--ci", "95"], "between 0 and 1"),
        (["evaluate", "{model}", "--data", "{data}", "--compare", "nowhere"], "model 'nowhere' cannot be loaded"),
        (["review", "{model}", "--data", "{data}", "--output", "x", "--limit", "0"], "limit is 0"),
        (["explain", "{model}", "nothing.png"], "no picture at 'nothing.png'"),
        (["explain", "{model}", "{data}"], "labels.csv"),
        (["evaluate", "{model}", "--data", "{data}", "--output", "{model}"], "is a folder; give the name of a file"),
        (["evaluate", "{model}", "--data", "{data}", "--plots", "{picture}"], "000.png is a file; a folder is needed"),
        (["explain", "{model}", "{picture}", "--labels", "blu"], "blue"),
        (["explain", "{model}", "{picture}", "--output", "x.jpg"], "end it in .png"),
    ],
)
def test_a_mistake_in_judging_a_model_is_one_line(
    trained, colour_table, capsys, tmp_path, monkeypatch, command, message
):
    monkeypatch.chdir(tmp_path)
    words = {"model": trained, "data": colour_table, "picture": colour_table.parent / "000.png"}
    assert main([word.format(**words) for word in command]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("halflabel: error: ")
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "quikstart"], "did you mean quickstart"),
        (["train", "quickstart", "--seeed", "1"], "did you mean seed"),
        (["train", "quickstart", "--backbone", "resnt50"], "timm knows no backbone"),
        (["train", "linear_probe", "--data", "none.csv"], "none.csv: no such file"),
        (["train", "linear_probe", "none.csv"], "none.csv: no such file"),
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
    assert main(["predict", "m", "p", "--ouput", "o.csv"]) == 2
    assert capsys.readouterr().err.startswith("halflabel: error: unknown option --ouput; did you mean --output?\n")
    assert main(["predict", "m"]) == 2
    assert capsys.readouterr().err == "halflabel: error: missing: PATH, --output; see halflabel predict --help\n"
    assert main(["predict", "m", "p", "--output", "o.csv", "--lables", "red"]) == 2
    assert capsys.readouterr().err == "halflabel: error: unknown option --lables; did you mean --labels?\n"


def test_lists(capsys):
    assert main(["recipes"]) == 0
    assert "quickstart" in capsys.readouterr().out
    assert main(["env"]) == 0
    assert "transformers: " in capsys.readouterr().out


def test_every_command_has_an_example_that_its_parser_takes():
    parser = build_parser()
    for name, command in parser._subparsers._group_actions[0].choices.items():
        example = command.epilog.removeprefix("Example: ")
        assert example.startswith(f"halflabel {name}")
        assert f"{command.prog} " in f"{example} "
        words = [word for word in shlex.split(example.split(" > ")[0])[1:] if name != "train" or word[:2] != "--"]
        options, rest = parser.parse_known_args(words)
        assert (options.command, rest) == (name, [])


def test_recipes_are_printed_and_their_keys_listed(capsys, tmp_path):
    assert main(["recipes", "linear_probe"]) == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["freeze_backbone"] is True
    (tmp_path / "mine.yaml").write_text(printed)
    again, shipped = parse_recipe(str(tmp_path / "mine.yaml")).plain(), parse_recipe("linear_probe").plain()
    assert again == {**shipped, "output_dir": "outputs/mine"}
    assert main(["recipes", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.endswith(":")] == ["data:", "model:", "training:", "decisions:"]
    assert {line.split()[0] for line in lines[:-2] if line.startswith("  ")} == set(DEFAULTS)
    assert next(line for line in lines if line.startswith("  test_share ")).endswith("names no splits (default: 0.2)")
    assert "eval_strategy: epoch" in lines[-1]


def test_a_mistake_that_was_typed_is_not_laid_to_the_recipe(capsys, tmp_path):
    assert main(["train", "linear_probe", "--num_train_epochs", "ten"]) == 2
    assert capsys.readouterr().err.startswith("halflabel: error: argument --num_train_epochs")
    (tmp_path / "r.yaml").write_text("data: x.csv\nbackbone: test_resnet\nnum_train_epochs: ten\n")
    assert main(["train", str(tmp_path / "r.yaml"), "--seed", "1"]) == 2
    assert capsys.readouterr().err.startswith(f"halflabel: error: {tmp_path / 'r.yaml'}: argument --num_train_epochs")
    assert main(["train", "linear_probe", "--xyzzy", "1"]) == 2
    assert capsys.readouterr().err == "halflabel: error: unknown option --xyzzy; halflabel recipes --keys lists them\n"


def test_words_paths_and_recipes_are_answered_without_torch(tmp_path):
    commands = {
        "--help": "train", "--version": "halflabel 0", "": "train", "recipes": "quickstart", "recipes --keys": "views",
        "train --help": "learning_rate", "env": "timm: ", "trian x": "did you mean train",
        "train quikstart": "did you mean quickstart", "train linear_probe": "labels.csv: no such file",
        "train linear_probe here.csv --los em": "did you mean loss", "predict gone x.png --output x.csv": "'gone'",
        "predict m/e x.png --output x.csv": "no pictures at 'x.png'", "train quickstart --lr fast": "--learning_rate",
        "evaluate m/e here.csv --split tset": "did you mean test", "compare here.csv --recipes linear": "linear_probe",
        "errors m/e here.csv": "it is called review", "advise here.cvs": "did you mean here.csv",
    }  # fmt: skip
    (tmp_path / "here.csv").write_text("file_name,red\n")
    code = (
        "import contextlib, json, io, sys\nfrom halflabel_cli import main\n"
        f"for words, told in {commands!r}.items():\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):\n"
        "        try:\n            code = main(words.split())\n"
        "        except SystemExit as stop:\n            code = stop.code\n"
        "    assert told in out.getvalue(), (words, out.getvalue())\n"
        "    assert code == (2 if ': error: ' in out.getvalue() else 0), (words, code)\n"
        "    assert not {'torch', 'numpy', 'halflabel'} & sys.modules.keys(), words\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_words_that_are_checked_early_are_those_that_the_rooms_take():
    assert {
        "split": SPLITS, "calibration": tuple(CALIBRATIONS), "contradictions": CONTRADICTIONS,
        "bad_images": choices("bad_images"), "format": tuple(FORMATS),
    } == WORDS  # fmt: skip


def test_the_commands_are_these():
    assert entry_points(group="console_scripts")["halflabel"].value == "halflabel_cli:main"
    assert set(build_parser()._subparsers._group_actions[0].choices) == {
        "train",
        "evaluate",
        "calibrate",
        "review",
        "explain",
        "compare",
        "predict",
        "data",
        "card",
        "demo",
        "export",
        "push",
        "advise",
        "recipes",
        "env",
    }


def test_the_module_starts_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cli.py", "recipes"])
    monkeypatch.delitem(
        sys.modules, "halflabel.cli.__main__", raising=False
    )  # as in `python -m`, which runs it for the first time
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("halflabel.cli", run_name="__main__", alter_sys=True)
    assert stop.value.code == 0
    assert "quickstart" in capsys.readouterr().out


def test_memory_that_runs_out_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "card", lambda options: torch.empty(1 << 60))  # what torch itself raises then
    assert main(["card", "."]) == 2
    assert capsys.readouterr().err.startswith("halflabel: error: out of memory: give smaller batches")
    monkeypatch.setitem(COMMANDS, "card", lambda options: torch.empty(2) @ torch.empty(3))
    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        main(["card", "."])
