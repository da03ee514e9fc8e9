"""What a run says of each epoch: a short line for what the Trainer prints as a dict of a dozen numbers."""

import math
from collections.abc import Mapping
from typing import Any

from transformers import Trainer
from transformers.trainer_callback import PrinterCallback, ProgressCallback

_WORDS = {
    "loss": "training loss",
    "learning_rate": "learning rate",
    "eval_mAP": "validation mAP",
    "eval_mAUROC": "mAUROC",
    "eval_known_loss": "loss",
    "eval_undefined_labels": "undefined labels",
    "train_runtime": "seconds of training",
}
_OTHERS = ("grad_norm", "total_flos", "epoch", "step", "eval_CF1", "eval_OF1", "train_loss")
"""Left out of the line, with all that ends in runtime or per_second; `training_log.json` holds everything."""


def describe_log(logs: Mapping[str, Any]) -> str:
    """Return what the Trainer logs as one line: the epoch, and of its numbers those that one looks at.

    Args:
        logs: As `TrainerCallback.on_log` gets them; a number that is NaN is undefined, and said to be.
    """
    parts = []
    for key, value in logs.items():
        if key in _WORDS or not (key in _OTHERS or key.endswith(("runtime", "per_second"))):
            if key == "eval_undefined_labels" and not value:
                continue
            parts.append(f"{_WORDS.get(key, key)} {_show(value)}")
    start = f"epoch {logs['epoch']:.4g}: " if "epoch" in logs else ""
    return start + ", ".join(parts)


def _show(value: Any) -> str:  # noqa: ANN401 - whatever is logged
    if not isinstance(value, float):
        return str(value)
    return "undefined" if math.isnan(value) else f"{value:.3g}"


class EpochProgress(ProgressCallback):
    """The Trainer's progress bar, with lines that can be read."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Write a line above the bar."""
        if state.is_world_process_zero and self.training_bar is not None and logs:
            self.training_bar.write(describe_log(logs))


class EpochPrinter(PrinterCallback):
    """The same where `disable_tqdm` is set."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Print a line."""
        if state.is_local_process_zero and logs:
            print(describe_log(logs), flush=True)


def say_epochs(trainer: Trainer) -> Trainer:
    """Put these in the place of the stock ones, and return the trainer; a notebook's table stays."""
    for stock, ours in ((ProgressCallback, EpochProgress), (PrinterCallback, EpochPrinter)):
        callbacks = trainer.callback_handler.callbacks
        callbacks[:] = [ours() if type(callback) is stock else callback for callback in callbacks]
    return trainer
