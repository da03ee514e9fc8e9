"""Ctrl-C and SIGTERM in every command: a line that says what is kept and what goes on with it, and exit code 130."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml
from conftest import write_pictures
from killed_runs import halflabel
from safetensors.torch import load_file

from halflabel.cli.commands import COMMANDS
from halflabel.cli.light import what_is_kept
from halflabel_cli import main

# The command, a pattern of the file at whose opening the signal comes, and what is said to be kept.
STOPPED = [
    ("train {recipe} --output_dir new", "005.png", "no checkpoint is there yet"),
    ("predict {model} {pictures} --output scores.csv --part_size 4", "009.png", "2 finished parts are kept in"),
    ("data {table}", "005.png", "nothing is kept"),
    ("evaluate {model} {table}", "018.png", "nothing is kept"),
    ("calibrate {model} {table} --split train", "005.png", "nothing is kept"),
    ("review {model} {table} --output found", "005.png", "nothing is kept"),
    ("explain {model} {pictures}/005.png", "005.png", "nothing is kept"),
    (
        "compare {table} --recipes {recipe} '{recipe} --loss em'",
        "005.png",
        "the runs that are finished and the features are kept",
    ),
    (
        "advise {table} --backbone test_resnet --weights {weights}",
        "labels.csv",
        "the features that were computed are kept",
    ),
    ("push {model} alice/model", r"share/(__pycache__/)?push\.", "files are pushed all together or not at all"),
    ("card {model}", "metrics.json", "nothing is kept"),
    ("export {model} --format timm --output plain", "config.json", "nothing is kept"),
    ("demo {model}", "config.json", "the page is closed"),
    ("recipes {recipe}", "ok.yaml", "nothing is kept"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("stopped")
    answers = write_pictures(root / "good", 24, 40)
    lines = [f"{i:03d}.png,{red},{blue},{'test' if i >= 16 else 'train'}" for i, (red, blue) in enumerate(answers)]
    table = root / "good" / "labels.csv"
    table.write_text("\n".join(["file_name,red,blue,split", *lines]) + "\n")
    recipe = {
        "backbone": "test_resnet", "weights": "none", "freeze_backbone": True, "cache_features": True, "use_cpu": True,
        "num_train_epochs": 1, "disable_tqdm": True, "report_to": "none", "data": str(table),
        "output_dir": str(root / "model"), "feature_cache": "none",
    }  # fmt: skip
    (root / "ok.yaml").write_text(yaml.safe_dump(recipe))
    assert main(["train", str(root / "ok.yaml")]) == 0
    model = root / "model"
    return SimpleNamespace(
        recipe=root / "ok.yaml", table=table, pictures=root / "good", model=model, weights=model / "model.safetensors"
    )


@pytest.fixture
def stop(places, tmp_path, monkeypatch):
    """A function that runs a command, stops it where it opens a file, and returns the line it ends with."""
    monkeypatch.chdir(tmp_path)

    def run(command, file, number):
        words = shlex.split(command.format(**vars(places)))
        code = halflabel(words, tmp_path / "output", kill_at=(file, 1), number=number)
        said = (tmp_path / "output").read_text()
        assert code == 130, said
        assert (tmp_path / "output").stat().st_mtime - float(re.search(r"signal at ([\d.]+)", said)[1]) < 2
        assert "Traceback" not in said
        lines = [line for line in said.splitlines() if line.startswith("halflabel: ")]
        assert len(lines) == 1, said
        assert said.endswith(f"{lines[0]}\n")
        assert lines[0].startswith("halflabel: stopped: ")
        return lines[0], words

    return run


def assert_stops(stop, command, file, kept, number):
    line, words = stop(command, file, number)
    assert line.startswith(f"halflabel: stopped: {kept}")
    resume = ["--resume"] if "parts" in kept else []
    assert shlex.split(line.partition("; go on with: ")[2]) == ["halflabel", *words, *resume]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "file", "kept"), STOPPED[:2])
def test_a_stopped_command_says_what_is_kept_and_how_to_go_on(stop, command, file, kept, number):
    assert_stops(stop, command, file, kept, number)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("command", "file", "kept"), STOPPED[2:])
def test_every_stopped_command_says_so(stop, command, file, kept, number):
    assert_stops(stop, command, file, kept, number)


def assert_same_files(one, other):
    whole, again = (load_file(folder / "model.safetensors") for folder in (one, other))
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    measures = [json.loads((folder / "metrics.json").read_text()) for folder in (one, other)]
    assert measures[0] == measures[1]


def test_every_command_is_stopped_here():
    assert {command.split()[0] for command, _, _ in STOPPED} == {*COMMANDS, "recipes"}


def test_what_torchrun_started_goes_on_with_as_many_processes(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    told = what_is_kept(SimpleNamespace(command="train", folder="none"), ["train", "my recipe.yaml"])
    assert told.endswith("go on with: torchrun --nproc_per_node 2 -m halflabel_cli train 'my recipe.yaml'")


def test_a_stopped_prediction_goes_on_by_the_command_that_it_names(stop, places, tmp_path):
    line, words = stop(*STOPPED[1][:2], signal.SIGINT)
    assert main(shlex.split(line.partition("go on with: halflabel ")[2])) == 0
    assert main([*words[:-3], "whole.csv"]) == 0
    assert (tmp_path / "scores.csv").read_text() == (tmp_path / "whole.csv").read_text()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_goes_on_from_its_last_checkpoint_to_the_same_model(places, tmp_path, number, monkeypatch):
    """At SIGTERM that is written after the step, in the midst of an epoch; at Ctrl-C it is that of the last epoch."""
    monkeypatch.chdir(tmp_path)
    keys = shlex.split("--num_train_epochs 8 --per_device_train_batch_size 4")
    keys += shlex.split("--freeze_backbone false --cache_features false")
    recipe = str(places.recipe)
    assert main(["train", recipe, *keys, "--output_dir", "whole"]) == 0
    words = ["train", recipe, *keys, "--output_dir", "broken"]
    code = halflabel(words, tmp_path / "output", kill_at=(r"good/\d+\.png", 70), number=number)
    said = (tmp_path / "output").read_text()
    assert code == 130, said
    assert "Traceback" not in said
    step = max(int(path.name[11:]) for path in (tmp_path / "broken").glob("checkpoint-*"))
    assert step >= 4
    assert (step % 4 == 0) == (number == signal.SIGINT)  # 4 steps an epoch
    last = said.splitlines()[-1]
    assert last == (
        f"halflabel: stopped: broken/checkpoint-{step} is kept; go on with: "
        f"halflabel {shlex.join(words)} --resume_from_checkpoint"
    )
    assert main(shlex.split(last.partition("go on with: halflabel ")[2])) == 0
    assert_same_files(*(tmp_path / name for name in ("whole", "broken")))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_two_processes_stop_together_and_go_on_to_the_same_model(places, tmp_path, number, monkeypatch):
    """torchrun, whose processes are sessions of their own, sends both signals on."""
    monkeypatch.chdir(tmp_path)
    keys = ["--num_train_epochs", "40", "--per_device_train_batch_size", "2", "--freeze_backbone", "false",
            "--cache_features", "false", "--ddp_backend", "gloo", "--log_epochs", "true", "--logging_strategy", "steps",
            "--logging_steps", "1"]  # fmt: skip
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [*torchrun, "-m", "halflabel_cli", "train", str(places.recipe), *keys, "--output_dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*words, "whole"], check=True, env=environment)
    broken = subprocess.Popen([*words, "broken"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              env=environment)  # fmt: skip
    lines = []
    for line in broken.stdout:
        lines.append(line)
        if line.startswith("epoch 2.25: training"):
            broken.send_signal(number)
            break
    lines += broken.stdout.read().splitlines(keepends=True)
    assert broken.wait() != 0
    told = [line for line in lines if line.startswith("halflabel: stopped")]
    step = max(int(path.name[11:]) for path in (tmp_path / "broken").glob("checkpoint-*"))
    assert 8 <= step < 160
    assert len(told) == 1, lines
    assert (
        f"broken/checkpoint-{step} is kept; go on with: torchrun --nproc_per_node 2 -m halflabel_cli train" in told[0]
    )
    again = subprocess.run(
        [*words, "broken", "--resume_from_checkpoint"], env=environment, capture_output=True, text=True
    )
    assert f"checkpoint-{step}" in again.stdout + again.stderr
    assert_same_files(*(tmp_path / name for name in ("whole", "broken")))
