"""Checkpoints that are whole or not there, and that resume exactly: what they hold, and which is the last one.

Also what lies beside a model in a checkpoint where the model is not what the optimizer works on: a moving average.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from transformers import TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..model.errors import HalflabelError, reason_of, shortlist

log = logging.getLogger(__name__)
TRAINING_WEIGHTS = "training_weights.safetensors"
TRAINED_ON = ".trained_on.json"
"""The file in a checkpoint, and in the folder of a finished run, that holds what `preparation.describe_run` says."""

UNFINISHED = ".unfinished"
"""The folder in the output folder in which a checkpoint is written; it is moved to its place when it is whole."""

_FAILED_WRITES = ("iostream", "inline_container")  # what torch.save says where it cannot write
_NEEDED = {
    "model.safetensors": ("model*.safetensors", "pytorch_model_fsdp*"),
    "optimizer.pt": ("optimizer*",),
    "scheduler.pt": ("scheduler.pt",),
    "rng_state.pth": ("rng_state*.pth",),
    "trainer_state.json": ("trainer_state.json",),
}


def find_fault(checkpoint: Path) -> str | None:
    """Say why a run cannot go on from a checkpoint; None: it is whole.

    Every file is opened as it is when a run goes on; of a pickle that is its tensors and plain values, and nothing that
    could run. `training_args.bin` is not: no run reads it.
    """
    for name, patterns in _NEEDED.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"it holds no {name}"
    for path in sorted(checkpoint.rglob("*")):
        try:
            if path.suffix == ".safetensors":
                _read_shapes(path)
            elif path.name == TRAINER_STATE_NAME:
                TrainerState.load_from_json(str(path))
            elif path.suffix == ".json":
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix in (".pt", ".pth", ".bin") and path.name != TRAINING_ARGS_NAME:
                with safe_globals():
                    torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, EOFError):
            return f"its {path.name} is cut off or damaged"
        except Exception:  # UnpicklingError, and whatever else a pickle makes of being refused
            return f"its {path.name} is damaged, or would run code"
    return None


def _read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(path, framework="pt") as stored:
        return {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118


def check_labels(checkpoint: Path, names: Sequence[str]) -> None:
    """Refuse a checkpoint of a model with other labels, or the same in another order.

    Raises:
        HalflabelError: It names both.
    """
    path = checkpoint / CONFIG_NAME
    found = read_json(path).get("id2label") if path.is_file() else None
    before = None if found is None else [found[number] for number in sorted(found, key=int)]
    if before not in (None, list(names)):
        raise HalflabelError(f"{checkpoint} is of a model with the labels {_short(before)}, not {_short(list(names))}")


def check_network(checkpoint: Path, model: nn.Module) -> None:
    """Refuse a whole checkpoint of another model, before training is set up.

    The Trainer would load weights by the names that happen to fit, and leave the others random.

    Raises:
        HalflabelError: It names what differs.
    """
    if not (checkpoint / SAFE_WEIGHTS_NAME).is_file():  # in pieces: who loads these compares them
        return
    shapes = _read_shapes(checkpoint / SAFE_WEIGHTS_NAME)
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    differing = sorted(key for key in shapes.keys() | expected.keys() if shapes.get(key) != expected.get(key))
    if differing:
        raise HalflabelError(f"{checkpoint} is of another network or of other labels: {shortlist(differing, 3)} differ")


def checkpoints_in(folder: Path) -> list[Path]:
    """Return the checkpoints in an output folder, that of the first step first; clocks may be set back."""
    found = [path for path in folder.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdecimal()]
    return sorted(found, key=_step_in_name)


def _step_in_name(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def remove_older(last: Path, limit: int | None, best: str | None) -> None:
    """Remove checkpoints of the first steps while there are more than the limit; the last and the best stay."""
    there = checkpoints_in(last.parent)
    kept = {last.name, Path(best or last).name}
    others = [path for path in there if path.name not in kept]
    for path in others[: len(there) - max(limit, len(kept))] if limit and len(there) > limit else ():
        shutil.rmtree(path, ignore_errors=True)


def later_checkpoints(folder: Path, checkpoint: Path) -> list[Path]:
    """Return the checkpoints in an output folder that a run writes anew which goes on from one of them."""
    state = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    return [path for path in checkpoints_in(folder) if _step_in_name(path) > state.global_step]


def read_json(path: Path) -> dict[str, Any]:
    """Return what a file of an output folder holds.

    Raises:
        HalflabelError: If it is cut off or damaged.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise HalflabelError(f"{path} is cut off or damaged; start in another folder") from error
    return found


def check_same_run(place: Path, now: dict[str, Any]) -> None:
    """Refuse to go on with what was trained on something else; only how long it is to be may differ.

    Args:
        place: A checkpoint, or the folder of a finished run.
        now: What is to go on, see `preparation.describe_run`.

    Raises:
        HalflabelError: It names what differs.
    """
    if not (place / TRAINED_ON).is_file():  # an older version's
        return
    before = read_json(place / TRAINED_ON)
    settings, pictures = (
        [(key, value, now[part][key]) for key, value in before[part].items() if now[part].get(key, value) != value]
        for part in ("settings", "data")
    )
    differing = [f"{key} {_short(value)} (now {_short(other)})" for key, value, other in settings]
    differing += [f"other {what}" for what, *_ in pictures]
    if differing:
        raise HalflabelError(
            f"{place} was trained with {shortlist(differing, 4)}: go on with the same, or give another --output_dir"
        )


def _short(value: Any) -> str:  # noqa: ANN401 - from JSON
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint in an output folder that is whole; None where there is none at all.

    What was not finished, and what is damaged, is named in a warning.

    Raises:
        HalflabelError: If every checkpoint is damaged.
    """
    for path in sorted((folder / UNFINISHED).glob("checkpoint-*")):
        log.warning("%s was not written to its end when the run stopped, and is left out", path.name)
    faults = []
    for path in reversed(checkpoints_in(folder)):
        fault = find_fault(path)
        if fault is None:
            log.info("going on from %s", path)
            return str(path)
        log.warning("%s is left out: %s", path, fault)
        faults.append(fault)
    if faults:
        raise HalflabelError(f"no checkpoint in {folder} is whole: of the last, {faults[0]}; start in another folder")
    return None


@contextlib.contextmanager
def disk_faults_told(what: Path) -> Iterator[None]:
    """Turn what is raised where a file cannot be written into one line.

    Raises:
        HalflabelError: On a full disk, or a folder that cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = reason_of(error, first_line=True)
        if isinstance(error, RuntimeError) and not any(word in reason for word in _FAILED_WRITES):
            raise
        raise HalflabelError(
            f"{what} cannot be written ({reason}); is the disk full? What was written earlier is there: "
            "make room, and go on with --resume_from_checkpoint"
        ) from error


def move_to_its_place(unfinished: Path, place: Path) -> None:
    """Give a whole checkpoint its name; one that has the name already makes way."""
    replaced = unfinished.with_name("replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if place.exists():
        place.rename(replaced)
    unfinished.rename(place)
    shutil.rmtree(unfinished.parent)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name: the tensors themselves, whatever `state_dict` makes of them."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def copy_weights(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy each tensor of `target` from the one of that name in `source`, in place."""
    for name, tensor in target.items():
        tensor.copy_(source[name])


class KeepTrainingWeights(TrainerCallback):
    """Write the weights as they are trained into every checkpoint, and go on from them.

    `model.safetensors` in a checkpoint is a whole model for use. Where that is not what the optimizer works on
    (`averaging`, `lora`), this callback of a `MultiLabelTrainer` keeps the latter beside it, in safetensors, so that a
    resumed run equals one without a break.
    """

    checkpoint: Path | None = None
    """Where the run goes on from; the Trainer says it."""

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the tensors that are written, and into which what was written is copied, by their names there."""
        return {f"trained.{name}": tensor for name, tensor in weights_of(model).items()}

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Take the weights of the checkpoint that the run resumes from.

        Raises:
            HalflabelError: If it was not written with this callback, or by a run with other settings.
        """
        if self.checkpoint is None:
            return
        path = self.checkpoint / TRAINING_WEIGHTS
        if not path.is_file():
            raise HalflabelError(f"{path}: no such file, and this run cannot resume without it; start it afresh")
        try:
            copy_weights(load_file(path, device=str(model.device)), self.training_weights(model))
        except (KeyError, RuntimeError) as error:
            raise HalflabelError(f"{path} is of a run with another model or other settings: {error}") from error

    def write(self, model: nn.Module, folder: Path) -> None:
        """Write a checkpoint's part; `MultiLabelTrainer` asks for it where it writes the rest."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {
            name: tensor.cpu().clone(memory_format=torch.contiguous_format)
            for name, tensor in self.training_weights(model).items()
        }
        save_file(weights, folder / TRAINING_WEIGHTS)


class AverageWeights(KeepTrainingWeights):
    """Average the weights over the optimizer steps, and show the average to everything but training.

    average <- d * average + (1 - d) * weights after each optimizer step (Polyak & Juditsky 1992; Tarvainen & Valpola,
    arXiv 1703.01780), with d = min(decay, (1 + t) / (10 + t)) after t steps, so that the average forgets the first
    weights, as which it starts, soon (TensorFlow's ExponentialMovingAverage). While the Trainer evaluates or saves, and
    when training ends, the model holds the average: the best epoch is the average's best, and each checkpoint and the
    final folder are models of averaged weights. What is trained lies beside them in `training_weights.safetensors`, for
    resuming.

    Floating-point buffers are averaged too, as timm's ModelEmaV3 does: BatchNorm's running statistics belong to the
    weights they were measured with, and so lag as much as the averaged weights do. Integers stay those of the training.

    The average lies where the model does, and takes as much memory; while it is shown, twice as much.
    """

    def __init__(self, decay: float) -> None:
        """Set what is kept of the average at each step.

        Args:
            decay: In (0, 1), like 0.999: the average is then over about the last 1000 steps.

        Raises:
            HalflabelError: If the decay is out of range.
        """
        if not 0 < decay < 1:
            raise HalflabelError(f"ema_decay is {decay}, expected between 0 and 1, like 0.999")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.hidden: dict[str, Tensor] | None = None  # the trained weights, while the model holds the average

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the trained and the averaged weights."""
        trained = weights_of(model) | (self.hidden or {})
        average = {f"average.{name}": tensor for name, tensor in self.average.items()}
        return {f"trained.{name}": tensor for name, tensor in trained.items()} | average

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the average, or go on with that of the checkpoint.

        Raises:
            HalflabelError: If the weights are not of float32 or float64, which a small step would not change.
        """
        weights = weights_of(model)
        coarse = [name for name, w in weights.items() if w.is_floating_point() and torch.finfo(w.dtype).bits < 32]
        if coarse:
            raise HalflabelError(f"averaging needs float32 weights; {coarse[0]} is {weights[coarse[0]].dtype}")
        self.hidden = None
        self.average = {name: tensor.clone() for name, tensor in weights.items() if tensor.is_floating_point()}
        super().on_train_begin(args, state, control, model=model)
        self._show(model)  # for an evaluation at the start

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Go on with training."""
        if self.hidden is not None:
            copy_weights(self.hidden, self._averaged(model))
            self.hidden = None

    on_step_begin = on_epoch_begin

    @torch.no_grad()
    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Average; show the average where the Trainer evaluates or saves next."""
        steps = state.global_step - 1
        update = get_ema_multi_avg_fn(min(self.decay, (1 + steps) / (10 + steps)))
        update(list(self.average.values()), list(self._averaged(model).values()), None)
        if control.should_evaluate or control.should_save:
            self._show(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Show the average: the Trainer evaluates or saves next, or training is over."""
        self._show(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Leave the model with what it holds, the average or the best one, and free the rest."""
        self.hidden, self.average = None, {}

    def _averaged(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the model's own tensors of which there is an average."""
        weights = weights_of(model)
        return {name: weights[name] for name in self.average}

    def _show(self, model: nn.Module) -> None:
        if self.hidden is None:
            self.hidden = {name: tensor.clone() for name, tensor in self._averaged(model).items()}
            copy_weights(self.average, self._averaged(model))
