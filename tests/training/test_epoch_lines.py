import logging

import pytest

from halflabel.training.epoch_lines import describe_log
from halflabel_cli import main


@pytest.mark.parametrize(
    ("logs", "line"),
    [
        (
            {"loss": 0.59791, "grad_norm": 2.4, "learning_rate": 0.004321, "epoch": 1.0},
            "epoch 1: training loss 0.598, learning rate 0.00432",
        ),
        (
            {"eval_mAP": 0.6079, "eval_mAUROC": 0.7344, "eval_known_loss": 0.5221, "eval_undefined_labels": 0,
             "eval_CF1": 0.4, "eval_runtime": 0.01, "eval_samples_per_second": 6124.0, "epoch": 12.5},
            "epoch 12.5: validation mAP 0.608, mAUROC 0.734, loss 0.522",
        ),
        (
            {"eval_mAP": float("nan"), "eval_undefined_labels": 2, "epoch": 1.0},
            "epoch 1: validation mAP undefined, undefined labels 2",
        ),
        ({"taught": 0.25, "epoch": 1.0}, "epoch 1: taught 0.25"),
        (
            {"train_runtime": 15.93, "train_samples_per_second": 2048.0, "train_loss": 0.19, "epoch": 60.0},
            "epoch 60: seconds of training 15.9",
        ),
    ],
)  # fmt: skip
def test_a_log_is_a_short_line(logs, line):
    assert describe_log(logs) == line


@pytest.mark.parametrize("bar", ["false", "true"])
def test_a_run_prints_two_lines_an_epoch(colour_table, tmp_path, capsys, bar):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"data: {colour_table}\nbackbone: test_resnet\nweights: none\noutput_dir: {tmp_path / 'out'}\n")
    assert main(["train", str(recipe), "--num_train_epochs", "2", "--use_cpu", "--disable_tqdm", bar]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert [line.split(" ")[:3] for line in lines[:4]] == [
        ["epoch", "1:", "training"], ["epoch", "1:", "validation"],
        ["epoch", "2:", "training"], ["epoch", "2:", "validation"],
    ]  # fmt: skip
    assert len(lines) == 5
    assert lines[4].startswith("epoch 2: seconds ")
    assert "{" not in "".join(lines)


def test_checkpoints_of_one_second_are_no_reason_for_a_warning(capsys):
    main(["train", "nope"])
    said = "mtime may not be reliable on this filesystem, falling back to numerical ordering"
    for text, passes in ((said, False), ("another warning", True)):
        record = logging.LogRecord("transformers.trainer_utils", logging.WARNING, "", 1, text, None, None)
        assert bool(logging.getLogger("transformers.trainer_utils").filter(record)) == passes
