"""Two processes on gloo, and the configurations for more: what is computed once, what is shared, who writes."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from sklearn.metrics import log_loss

from halflabel.data.images import write_shards
from halflabel.data.loading import load_images
from halflabel.model.objective import count_items
from halflabel.training.checkpoints import find_fault
from halflabel.training.keys import recipe_folder, shipped_recipes

SCRIPT = Path(__file__).parents[1] / "helpers" / "two_processes.py"
spec = importlib.util.spec_from_file_location("two_processes", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
runs = script.transfer_runs
DISTRIBUTED = {
    "one_gpu": "NO",
    "gpus_ddp": "MULTI_GPU",
    "gpus_fsdp": "FSDP",
    "nodes_ddp": "MULTI_GPU",
    "nodes_fsdp": "FSDP",
}
CONFIGURATIONS = sorted((recipe_folder() / "accelerate").glob("*.yaml"))


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Run the script once; return its folder, and what each process told."""
    from conftest import write_pictures

    folder = tmp_path_factory.mktemp("together")
    answers = write_pictures(folder / "pictures", 48)
    lines = [f"{i:03d}.png,{red},{blue},{'test' if i >= 32 else 'train'}" for i, (red, blue) in enumerate(answers)]
    table = folder / "pictures" / "labels.csv"
    table.write_text("\n".join(["file_name,red,blue,split", *lines]) + "\n")
    size = (folder / "pictures" / "000.png").stat().st_size
    write_shards(load_images(table), folder / "shards", shard_bytes=5 * size, quiet=True)
    recipe = {
        "data": str(table), "backbone": "test_resnet", "weights": "none", "ema_decay": 0.9, "num_train_epochs": 2,
        "save_total_limit": 1,  # checkpoints stay
        "per_device_train_batch_size": 5, "output_dir": str(folder / "out"), "use_cpu": True, "disable_tqdm": True,
        "report_to": "none", "decide": "f1", "max_steps": 8, "eval_strategy": "steps", "eval_steps": 2,
        "save_strategy": "steps", "save_steps": 2,
    }  # fmt: skip
    (folder / "my.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(SCRIPT),
               str(folder / "my.yaml"), str(folder), str(folder / "shards")]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-5000:]
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("normalizer", script.NORMALIZERS)
def test_a_fully_sharded_model_has_the_loss_and_the_update_of_a_whole_one(together, normalizer):
    folder, told = together
    found = [one["sharded"][normalizer] for one in told]
    assert all(one["wrapped"] and one["parameters are DTensor"] for one in found)
    assert sum(one["share here"] for one in found) == pytest.approx(1)
    assert all(0.4 < one["share here"] < 0.6 for one in found)
    model, pixels, labels = script.sharded_model(normalizer)
    start = runs.copies(model)
    loss = script.step(model, pixels, labels, count_items(labels, "bce"))
    assert sum(one["loss"] for one in found) == pytest.approx(loss, rel=1e-4)
    sharded = torch.load(folder / f"{normalizer}.pt", weights_only=True)
    update = {name: parameter - start[name] for name, parameter in model.named_parameters()}
    assert sharded.keys() == update.keys()
    moved = torch.cat([tensor.flatten() for tensor in update.values()])
    difference = torch.cat([(sharded[name] - start[name] - update[name]).flatten() for name in update])
    assert moved.norm() > 1e-3
    assert difference.norm() / moved.norm() < 1e-4


def test_an_evaluation_counts_every_image_once_when_the_last_batch_is_ragged(together):
    _, told = together
    rows = runs.Rows(11)
    with torch.no_grad():
        logits = runs.make_model().eval()(rows.pixels).logits
    for one in told:
        torch.testing.assert_close(torch.tensor(one["evaluated"]["logits"]), logits, rtol=1e-4, atol=1e-5)
        assert one["evaluated"]["labels"] == rows.labels.tolist()
        known = rows.labels >= 0
        expected = log_loss(rows.labels[known], logits.double().sigmoid().numpy()[known])
        assert one["evaluated"]["known_loss"] == pytest.approx(expected, rel=1e-4)


def test_two_processes_with_two_loaders_each_read_every_picture_of_a_stream_once_in_a_pass(together):
    _, told = together
    readers = [rows for one in told for rows in one["stream"].values()]
    assert len(readers) == 4
    assert all(readers)
    done = min(max(int(number) for number, _ in rows) for rows in readers)  # passes that all four have left behind
    assert done >= 2
    for number in range(done):
        read = Counter(name for rows in readers for turn, name in rows if int(turn) == number)
        assert read == Counter(f"{i:03d}.png" for i in range(32))


def test_one_process_writes_and_both_agree(together):
    folder, told = together
    assert told[0]["trained"]["metrics"] == told[1]["trained"]["metrics"]
    places = [{re.sub(r"\d+", "N", line.partition(" ")[2]) for line in one["trained"]["changed"]} for one in told]
    assert {"/metrics.json", "/recipe.yaml", "/.unfinished/checkpoint-N/trainer_state.json"} <= places[0]
    assert places[1] <= {"", "/.unfinished", "/.unfinished/checkpoint-N"}  # folders, for its generators' state
    (checkpoint, *more) = sorted((folder / "out").glob("checkpoint-*"))
    assert not more
    assert find_fault(checkpoint) is None
    assert {path.name for path in checkpoint.glob("rng_state*")} == {"rng_state_0.pth", "rng_state_1.pth"}
    assert not (folder / "out" / ".unfinished").exists()


def resumed(folder, processes, steps):
    """Run a training of 18 steps, go on from each of these, and return what every process found different."""
    script = SCRIPT.with_name("resumed_at_each_step.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    done = subprocess.run([*command, str(script), str(folder), *map(str, steps)],
                          capture_output=True, text=True, timeout=1500)  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize(
    ("processes", "steps"),
    [
        (2, [4]),
        pytest.param(2, range(1, 19), marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
        pytest.param(3, range(1, 19), marks=[pytest.mark.slow, pytest.mark.timeout(1500)]),
    ],
)
def test_what_goes_on_within_an_epoch_is_the_unbroken_run(tmp_path, processes, steps):
    """Weights, losses and measures of each step, to the last bit; the last step of an epoch has one picture of 4 or 6.

    Accelerate does not say of such an epoch which pictures only fill its last step.
    """
    for found in resumed(tmp_path, processes, steps):
        assert found == {str(step): [18 - step, []] for step in steps}


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.stem)
def test_a_configuration_is_read_by_accelerate_and_its_command_is_on_top(path):
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ")
    assert lines[1] == "# Not run here: needs GPUs."
    commands = [line.removeprefix("# Command: ") for line in lines if line.startswith("# Command: ")]
    assert commands
    for command in commands:
        assert f"accelerate launch --config_file recipes/accelerate/{path.name} " in command
        assert "-m halflabel.cli train finetune " in command
    config = load_config_from_file(str(path))
    assert config.distributed_type == DISTRIBUTED[path.stem]
    assert (config.num_machines > 1) == path.stem.startswith("nodes")
    assert config.num_processes == (1 if path.stem == "one_gpu" else 8 * config.num_machines)
    assert not config.use_cpu
    assert config.fsdp_config.get("fsdp_version") == (2 if path.stem.endswith("fsdp") else None)
    assert path.stem not in shipped_recipes()


def test_there_is_a_configuration_for_one_several_and_many():
    assert {path.stem for path in CONFIGURATIONS} == set(DISTRIBUTED)
