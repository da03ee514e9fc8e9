"""Runs that are killed, whose checkpoints are damaged, or whose disk is full, go on to the model of an unbroken run."""

import importlib.util
import json
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path

import forked
import killed_runs
import numpy as np
import pytest
import torch
import transfer_runs as runs
import yaml
from conftest import write_pictures
from killed_runs import halflabel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from halflabel import HalflabelError
from halflabel.model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from halflabel.training.checkpoints import (
    TRAINING_WEIGHTS,
    UNFINISHED,
    check_network,
    find_fault,
)
from halflabel.training.transfer import AverageWeights

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
    assert halflabel(arguments, folder / "output.txt", kill_at=(r"/033\.png", 5)) == -9
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
        ((r"/00\d\.png", 24), 3),  # each is read to know it again; the fourth of these ten in the second epoch
        ((rf"{UNFINISHED}/checkpoint-9/trainer_state\.json", 1), 6),
        # in the third evaluation
        pytest.param((r"/033\.png", 4), 6, marks=pytest.mark.slow),
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


def test_a_second_run_in_the_same_folder_is_refused_by_the_pid_of_the_first(start, whole, tmp_path):
    """Which goes on as if nothing had happened; and when it is killed, the folder is free at once."""
    folder = tmp_path / "out"
    arguments = ["train", tmp_path / "my.yaml", f"--output_dir={folder}", "--dataloader_num_workers=2"]
    (tmp_path / "my.yaml").write_text((whole.parent / "my.yaml").read_text())
    first = forked.start(killed_runs.run, list(map(str, arguments)), None, None, output=tmp_path / "first.txt")
    try:
        while first.is_alive() and not list(folder.glob("checkpoint-*")):
            time.sleep(0.01)
        os.kill(first.pid, signal.SIGSTOP)
        for resume in ((), ("--resume_from_checkpoint",)):
            code, said = start(folder, *resume)
            assert code == 2
            told = f"halflabel: error: {folder} is in use by process {first.pid} on {platform.node()}: wait for its end"
            assert said.splitlines()[-1].startswith(told)
        assert steps(folder) == [3]
    finally:
        os.kill(first.pid, signal.SIGKILL)
        first.join()
    code, said = start(folder, "--resume_from_checkpoint")
    assert code == 0, said
    assert_same_model(folder, whole)
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


def test_a_checkpoint_of_other_weights_is_refused_though_its_names_may_be_the_same(tiny_model, tmp_path):
    tiny_model.save_pretrained(tmp_path)
    check_network(tmp_path, tiny_model)
    other = TimmMultiLabelForImageClassification.from_backbone("test_resnet", ["a", "b", "c"], weights=None)
    with pytest.raises(HalflabelError, match=r"other labels: head\.linear\.bias, head\.linear\.weight differ"):
        check_network(tmp_path, other)
    state = tiny_model.state_dict()
    for changed in ({**state, "more": torch.ones(1)}, dict(list(state.items())[:-1])):
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(HalflabelError, match="of another network"):
            check_network(tmp_path, tiny_model)


one_thread = runs.one_thread
pytestmark = pytest.mark.usefixtures("one_thread")


def by_hand(start, weights, decay):
    """The averages after each step, in float64, and integers as they are."""
    average, found = {name: t.double() if t.is_floating_point() else t for name, t in start.items()}, []
    for step, current in enumerate(weights):
        d = min(decay, (1 + step) / (10 + step))
        average = {
            name: d * old + (1 - d) * current[name].double() if current[name].is_floating_point() else current[name]
            for name, old in average.items()
        }
        found.append(average)
    return found


def assert_near(found, expected):
    assert found.keys() <= expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.to(expected[name].dtype), expected[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("decay", [0.3, 0.99])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_model_ends_as_the_average_made_by_hand(decay, accumulation, tmp_path):
    """BatchNorm's statistics too; an accumulated step counts once."""
    model = runs.make_model()
    start, weights = runs.copies(model), runs.Record(runs.copies)
    trainer = runs.make_trainer(
        model, tmp_path, [weights, AverageWeights(decay)], per_device_train_batch_size=2,
        gradient_accumulation_steps=accumulation,
    )  # fmt: skip
    trainer.train()
    assert len(weights.seen) == 16 // accumulation
    assert_near(runs.copies(model), by_hand(start, weights.seen, decay)[-1])
    distance = (model.head.linear.weight - weights.seen[-1]["head.linear.weight"]).abs().max()
    assert distance > 1e-4


def test_training_itself_does_not_notice(tmp_path):
    """With evaluations and checkpoints in between, the trained weights are those of a run without an average."""
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 3}
    plain, averaged = runs.Record(runs.copies), runs.Record(runs.copies)
    runs.make_trainer(runs.make_model(), tmp_path / "plain", [plain], **settings).train()
    runs.make_trainer(runs.make_model(), tmp_path / "averaged", [averaged, AverageWeights(0.9)], **settings).train()
    assert len(plain.seen) == 8
    for one, other in zip(plain.seen, averaged.seen, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("strategy", ["epoch", "steps", "best"])
def test_evaluation_checkpoints_and_the_best_model_are_averages(strategy, tmp_path):
    model = runs.make_model()
    start, weights, logits, scores = runs.copies(model), runs.Record(runs.copies), [], iter([0.2, 0.9, 0.1, 0.3])
    evaluation = "steps" if strategy == "steps" else "epoch"
    trainer = runs.make_trainer(
        model, tmp_path, [weights, AverageWeights(0.8)], num_train_epochs=4, save_strategy=strategy,
        eval_strategy=evaluation, eval_steps=4, save_steps=4, load_best_model_at_end=True, metric_for_best_model="mAP",
    )  # fmt: skip
    trainer.compute_metrics = lambda found: logits.append(found.predictions.copy()) or {"mAP": next(scores)}
    trainer.train()
    expected = by_hand(start, weights.seen, 0.8)
    pixels = runs.Rows(8).pixels
    for number, step in enumerate((4, 8, 12, 16)):
        other = runs.make_model().eval()
        other.load_state_dict({name: tensor.to(start[name].dtype) for name, tensor in expected[step - 1].items()})
        with torch.no_grad():
            np.testing.assert_allclose(logits[number], other(pixels).logits, rtol=1e-3, atol=1e-5)
        folder = tmp_path / f"checkpoint-{step}"
        if strategy == "best" and step > 8:
            assert not folder.exists()
            continue
        assert_near(load_file(folder / "model.safetensors"), expected[step - 1])
        stored = load_file(folder / TRAINING_WEIGHTS)
        for name, tensor in weights.seen[step - 1].items():
            assert torch.equal(stored[f"trained.{name}"], tensor), name
    assert_near(runs.copies(model), expected[7])  # the second was the best
    trainer.save_model(str(tmp_path / "final"))
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "final").eval()
    with torch.no_grad():
        np.testing.assert_allclose(again(pixels).logits, logits[1], rtol=1e-5, atol=1e-6)
    assert not (tmp_path / "final" / TRAINING_WEIGHTS).exists()


def test_an_evaluation_within_an_epoch_sees_the_average(tmp_path):
    model = runs.make_model()
    start, weights, logits = runs.copies(model), runs.Record(runs.copies), []
    trainer = runs.make_trainer(
        model, tmp_path, [weights, AverageWeights(0.9)], eval_strategy="steps", eval_steps=3, eval_on_start=True
    )
    trainer.compute_metrics = lambda found: logits.append(found.predictions.copy()) or {}
    trainer.train()
    averages = [start, *by_hand(start, weights.seen, 0.9)]
    for step, found in zip((0, 3, 6, 8), logits, strict=True):
        other = runs.make_model().eval()
        other.load_state_dict({name: tensor.to(start[name].dtype) for name, tensor in averages[step].items()})
        with torch.no_grad():
            np.testing.assert_allclose(found, other(runs.Rows(8).pixels).logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("save_steps", [3, 4], ids=["within an epoch", "between two"])
def test_an_interrupted_run_resumes_to_the_same_average(save_steps, elsewhere, tmp_path):
    settings = {"save_strategy": "steps", "save_steps": save_steps, "eval_strategy": "steps", "eval_steps": 3}
    whole, weights = runs.make_model(), runs.Record(runs.copies)
    runs.make_trainer(whole, tmp_path / "whole", [weights, AverageWeights(0.9)], **settings).train()
    callbacks = [AverageWeights(0.9), runs.Stop(save_steps + 1)]
    with pytest.raises(KeyboardInterrupt):
        runs.make_trainer(runs.make_model(), tmp_path / "broken", callbacks, **settings).train()
    resumed, after = runs.make_model(), runs.Record(runs.copies)
    checkpoint = tmp_path / f"broken/checkpoint-{save_steps}"
    if elsewhere:
        checkpoint = shutil.move(checkpoint, tmp_path / "moved")
    trainer = runs.make_trainer(resumed, tmp_path / "broken", [after, AverageWeights(0.9)], **settings)
    trainer.train(resume_from_checkpoint=str(checkpoint))
    for one, other in zip(weights.seen[save_steps:], after.seen, strict=True):
        assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    for name, tensor in runs.weights_of(whole).items():
        assert torch.equal(tensor, runs.weights_of(resumed)[name]), name


@pytest.mark.parametrize("strategy", ["epoch", "best"])
def test_a_run_broken_off_while_it_evaluates_leaves_only_whole_checkpoints(strategy, tmp_path):
    scores = iter([0.1, 0.2])  # and then no more
    trainer = runs.make_trainer(
        runs.make_model(), tmp_path, [AverageWeights(0.9)], num_train_epochs=3, save_strategy=strategy,
        eval_strategy="epoch", metric_for_best_model="mAP", save_total_limit=1,
    )  # fmt: skip
    trainer.compute_metrics = lambda found: {"mAP": next(scores)}
    with pytest.raises(StopIteration):
        trainer.train()
    (checkpoint,) = tmp_path.glob("checkpoint-*")
    assert {"model.safetensors", TRAINING_WEIGHTS, "trainer_state.json"} <= {path.name for path in checkpoint.iterdir()}


def test_a_checkpoint_without_the_trained_weights_cannot_be_resumed(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 4}
    runs.make_trainer(runs.make_model(), tmp_path, **settings).train()
    with pytest.raises(HalflabelError, match=r"checkpoint-8/training_weights.safetensors: no such file, and this run"):
        runs.make_trainer(runs.make_model(), tmp_path, [AverageWeights(0.9)], **settings).train(
            resume_from_checkpoint=True
        )


def test_only_what_resumes_is_written(tmp_path):
    runs.make_trainer(
        runs.make_model(), tmp_path, [AverageWeights(0.9)], save_strategy="epoch", save_only_model=True
    ).train()
    assert not list(tmp_path.rglob(TRAINING_WEIGHTS))
    assert len(list(tmp_path.rglob("model.safetensors"))) == 2


def test_mistakes_are_told_in_one_line(tmp_path):
    for decay in (0, 1, 1.5, -0.1, float("nan")):
        with pytest.raises(HalflabelError, match="ema_decay is .*, expected between 0 and 1"):
            AverageWeights(decay)
    with pytest.raises(HalflabelError, match="averaging needs float32 weights; backbone.conv1.0.weight is torch.bfl"):
        runs.make_trainer(runs.make_model().bfloat16(), tmp_path, [AverageWeights(0.9)]).train()
