import pytest

from halflabel import HalflabelError
from halflabel.model.loss_arguments import LOSSES, check_loss


@pytest.mark.parametrize(
    ("loss", "arguments", "message"),
    [
        ("bcee", {}, "unknown loss 'bcee'; it is one of bce, focal.*did you mean bce"),
        ("asl", {"gama_neg": 2}, "takes no argument 'gama_neg'; it takes gamma_pos, gamma_neg.*did you mean gamma_neg"),
        ("bce", {"epoch": 2}, "takes no argument 'epoch'"),
        ("bce", {"label_smoothing": 1.0}, r"label_smoothing is 1\.0, expected a number of at least 0 and below 1"),
        ("focal", {"gamma": -1}, "gamma is -1"),
        ("focal", {"alpha": "x"}, "alpha is 'x'"),
        ("asl", {"clip": True}, "clip is True"),
        ("asl", {"detach_focus": 1}, "true or false"),
        ("selective", {"topk": 1.5}, "whole number"),
        ("selective", {"prior": [0.1]}, "a list of 2 numbers"),
        ("selective", {"prior": [0.1, 2]}, "from 0 to 1"),
        ("splc", {"threshold": float("nan")}, "threshold is nan"),
    ],
)
def test_faults_are_named(loss, arguments, message):
    with pytest.raises(HalflabelError, match=message):
        check_loss(loss, arguments, 2)


def test_the_defaults_of_every_loss_are_in_range():
    import inspect

    for name, function in LOSSES.items():
        defaults = {key: p.default for key, p in inspect.signature(function).parameters.items()
                    if key not in ("logits", "targets", "pos_weight", "epoch")}  # fmt: skip
        check_loss(name, defaults, 2)
