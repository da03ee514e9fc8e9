"""Runs that are killed, whose checkpoints are damaged, or whose disk is full, go on to the model of an unbroken run."""

import importlib.util
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from conftest import write_pictures
from killed_runs import halflabel
from safetensors.torch import load_file

from halflabel.training.resuming import UNFINISHED, find_fault

spec = importlib.util.spec_from_file_location(
    "bench_kills", Path(__file__).parents[1] / "benchmarks" / "bench_kills.py"
)
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
RECIPE = {
    "backbone": "test_resnet", "weights": "none", "loss": "ll_r", "ema_decay": 0.9,
    "lr_scheduler_type": "cosine", "learning_rate": 0.01, "num_train_epochs": 3, "per_device_train_batch_size": 8,
    "eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 3, "decide": "f1",
    "metric_for_best_model": "known_loss", "greater_is_better": False, "save_total_limit": 1, "use_cpu": True,
    "logging_strategy": "steps", "logging_steps": 1, "disable_tqdm": True, "report_to": "none",
}  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """32 training, 8 validation and 8 test pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    answers = write_pictures(folder, 48)
    lines = ["file_name,red,blue,split"]
    for i, (red, blue) in enumerate(answers):
        split = "train" if i < 32 else "validation" if i < 40 else "test"
        lines.append(f"{i:03d}.png,{'' if i < 32 and i % 5 == 0 else red},{blue},{split}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder / "labels.csv"


@pytest.fixture
def start(table, tmp_path):
    """Start the recipe in a folder; return its exit code and what it printed."""

    def run(folder, *overrides, **options):
        path = tmp_path / "my.yaml"
        path.write_text(yaml.safe_dump({**RECIPE, "data": str(table)}))
        arguments = ["train", path, f"--output_dir={folder}", *overrides]
        code = halflabel(arguments, tmp_path / "output.txt", **options)
        return code, (tmp_path / "output.txt").read_text()

    return run


@pytest.fixture(scope="module")
def whole(table, tmp_path_factory):
    """The model of a run without a break, 12 steps in 3 epochs."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "my.yaml").write_text(yaml.safe_dump({**RECIPE, "data": str(table)}))
    assert halflabel(["train", folder / "my.yaml", f"--output_dir={folder / 'out'}"], folder / "output.txt") == 0
    return folder / "out"


@pytest.fixture(scope="module")
def broken(table, tmp_path_factory):
    """A run that was killed in its last evaluation, with the checkpoints of steps 3, 6 and 9."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "my.yaml").write_text(yaml.safe_dump({**RECIPE, "data": str(table), "save_total_limit": 4}))
    arguments = ["train", folder / "my.yaml", f"--output_dir={folder / 'out'}"]
    assert halflabel(arguments, folder / "output.txt", kill_at=(r"/033\.png", 4)) == -9
    return folder / "out"


def steps(folder):
    return sorted(int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*"))


def assert_same_model(folder, whole):
    """The weights to the last bit, what was measured with them, and the losses and measures on the way."""
    ours, others = (bench.history(path) for path in (folder, whole))
    assert len(others) == 12 + 4 + 1  # steps, evaluations and the end
    assert ours == others
    one, other = (load_file(path / "model.safetensors") for path in (folder, whole))
    assert one.keys() == other.keys()
    for name, tensor in other.items():
        assert torch.equal(one[name], tensor), name
    assert (folder / "metrics.json").read_text() == (whole / "metrics.json").read_text()
    assert json.loads((folder / "config.json").read_text()) == json.loads((whole / "config.json").read_text())


@pytest.mark.parametrize(
    ("kill_at", "last"),
    [
        ((r"/00\d\.png", 14), 3),  # the fourth of these ten in the second epoch: in training
        ((rf"{UNFINISHED}/checkpoint-9/trainer_state\.json", 1), 6),
        # in the third evaluation
        pytest.param((r"/033\.png", 3), 6, marks=pytest.mark.slow),
        # training is over, and the test split is measured
        pytest.param((r"/041\.png", 1), 12, marks=pytest.mark.slow),
    ],
    ids=["training", "checkpoint", "evaluation", "test"],
)
def test_a_killed_run_goes_on_to_the_same_model_whatever_the_workers(start, whole, tmp_path, kill_at, last):
    folder = tmp_path / "out"
    code, _ = start(folder, kill_at=kill_at)
    assert code == -9
    assert steps(folder)[-1] == last
    assert all(find_fault(path) is None for path in folder.glob("checkpoint-*"))
    code, said = start(folder, "--resume_from_checkpoint", "--dataloader_num_workers=2")
    assert code == 0, said
    assert f"going on from {folder / f'checkpoint-{last}'}\n" in said
    told = "checkpoint-9 was not written to its end when the run stopped, and is left out\n"
    assert (told in said) == (UNFINISHED in kill_at[0])
    assert_same_model(folder, whole)
    assert len(steps(folder)) == 1  # the best
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}


def cut(name):
    def damage(checkpoint):
        path = checkpoint / name
        path.write_bytes(path.read_bytes()[:-20])

    return damage


DAMAGES = {
    "its model.safetensors is cut off or damaged": cut("model.safetensors"),
    "its training_weights.safetensors is cut off or damaged": cut("training_weights.safetensors"),
    "its optimizer.pt is cut off or damaged": cut("optimizer.pt"),
    "its trainer_state.json is cut off or damaged": cut("trainer_state.json"),
    "its scheduler.pt is cut off or damaged": lambda checkpoint: (checkpoint / "scheduler.pt").write_bytes(b""),
    "it holds no rng_state.pth": lambda checkpoint: (checkpoint / "rng_state.pth").unlink(),
    "it holds no trainer_state.json": lambda checkpoint: (checkpoint / "trainer_state.json").unlink(),
    "it holds no model.safetensors": lambda checkpoint: (checkpoint / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("fault", DAMAGES)
def test_what_is_wrong_with_a_checkpoint_is_found(broken, tmp_path, fault):
    checkpoint = shutil.copytree(broken / "checkpoint-9", tmp_path / "checkpoint-9")
    assert find_fault(checkpoint) is None
    DAMAGES[fault](checkpoint)
    assert find_fault(checkpoint) == fault


def test_a_run_falls_back_to_the_last_whole_checkpoint_and_says_so(start, broken, whole, tmp_path):
    folder = shutil.copytree(broken, tmp_path / "out")
    cut("optimizer.pt")(folder / "checkpoint-9")
    code, said = start(folder, "--resume_from_checkpoint", str(folder / "checkpoint-9"))
    assert code == 2
    assert said.endswith(
        f"resume_from_checkpoint '{folder / 'checkpoint-9'}': its optimizer.pt is cut off or damaged\n"
    )
    code, said = start(folder, "--resume_from_checkpoint")
    assert code == 0, said
    assert f"{folder / 'checkpoint-9'} is left out: its optimizer.pt is cut off or damaged\n" in said
    assert f"going on from {folder / 'checkpoint-6'}\n" in said
    assert_same_model(folder, whole)


def test_without_any_whole_checkpoint_nothing_is_overwritten(start, broken, tmp_path):
    folder = shutil.copytree(broken, tmp_path / "out")
    for checkpoint in folder.glob("checkpoint-*"):
        cut("model.safetensors")(checkpoint)
    code, said = start(folder, "--resume_from_checkpoint")
    assert code == 2
    assert said.splitlines()[-1] == (
        f"halflabel: error: no checkpoint in {folder} is whole: of the last, its model.safetensors is cut off or "
        "damaged; start in another folder"
    )
    assert steps(folder) == [3, 6, 9]


@pytest.mark.parametrize("file", ["optimizer.pt", pytest.param("model.safetensors", marks=pytest.mark.slow)])
def test_a_full_disk_is_one_line_and_loses_no_checkpoint(start, broken, whole, tmp_path, file):
    """The file grows up to all but its last kilobyte."""
    folder = shutil.copytree(broken, tmp_path / "out")
    sizes = {path.name: path.stat().st_size for path in (folder / "checkpoint-9").iterdir()}
    if file == "optimizer.pt":
        assert max(sizes, key=sizes.get) == file
    code, said = start(folder, "--resume_from_checkpoint", largest_file=sizes[file] - 1000)
    assert code == 2
    assert "Traceback" not in said
    *_, line = said.splitlines()
    assert line.startswith(f"halflabel: error: {folder / 'checkpoint-12'} cannot be written (")
    assert line.endswith("make room, and go on with --resume_from_checkpoint")
    assert steps(folder) == [3, 6, 9]
    assert not (folder / UNFINISHED).exists()
    assert start(folder, "--resume_from_checkpoint")[0] == 0
    assert_same_model(folder, whole)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_loses_no_checkpoint(start, broken, whole, small_disk):
    folder, ballast = shutil.copytree(broken, small_disk / "out"), small_disk / "ballast"
    size = sum(path.stat().st_size for path in (folder / "checkpoint-9").iterdir())
    room = os.statvfs(small_disk)
    with ballast.open("wb") as file:
        file.truncate(0)
        file.write(b"\0" * (room.f_bavail * room.f_frsize - size // 2))
    code, said = start(folder, "--resume_from_checkpoint")
    assert code == 2, said
    assert "No space left on device" in said or "is the disk full?" in said
    assert "Traceback" not in said
    assert steps(folder) == [3, 6, 9]
    ballast.unlink()
    assert start(folder, "--resume_from_checkpoint")[0] == 0
    assert_same_model(folder, whole)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_runs_that_are_killed_at_random_points_go_on_to_the_same_models(tmp_path):
    """The benchmark in small: whole commands, two kills a phase."""
    counts = dict.fromkeys(bench.PHASES, 2)
    report = bench.measure(tmp_path, counts, seed=1)
    assert all(report[phase]["kills"] >= count for phase, count in counts.items())
    assert not any(row["lost"] or row["different"] or row["by hand"] for row in report.values())
