"""Checkpoints that are whole or not there, and that resume exactly: what they hold, and which is the last one."""

import contextlib
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback

from ..model.errors import HalflabelError, reason_of

log = logging.getLogger(__name__)
TRAINING_WEIGHTS = "training_weights.safetensors"
UNFINISHED = ".unfinished"
"""The folder in the output folder in which a checkpoint is written; it is moved to its place when it is whole."""

_FAILED_WRITES = ("iostream", "inline_container")  # what torch.save says where it cannot write
_TRAINED = "trained."
_NEEDED = {
    "model.safetensors": ("model*.safetensors", "pytorch_model_fsdp*"),
    "optimizer.pt": ("optimizer*",),
    "scheduler.pt": ("scheduler.pt",),
    "rng_state.pth": ("rng_state*.pth",),
    "trainer_state.json": ("trainer_state.json",),
}


def find_fault(checkpoint: Path) -> str | None:
    """Say why a run cannot go on from a checkpoint; None: it can."""
    for name, patterns in _NEEDED.items():
        if not any(any(checkpoint.glob(pattern)) for pattern in patterns):
            return f"it holds no {name}"
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and not _is_whole(path):
            return f"its {path.name} is cut off or damaged"
    return None


def _is_whole(path: Path) -> bool:
    """Read what stands last in a file of a checkpoint, or how long it should be."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt"):
                return True
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        return path.suffix not in (".pt", ".pth", ".bin") or zipfile.is_zipfile(path)
    except (SafetensorError, ValueError):
        return False


def last_checkpoint(folder: Path) -> str | None:
    """Return the last checkpoint in an output folder that is whole; None where there is none at all.

    What was not finished, and what is damaged, is named in a warning.

    Raises:
        HalflabelError: If every checkpoint is damaged.
    """
    for path in sorted((folder / UNFINISHED).glob("checkpoint-*")):
        log.warning("%s was not written to its end when the run stopped, and is left out", path.name)
    faults = []
    numbers = [path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")]
    for number in sorted((int(number) for number in numbers if number.isdecimal()), reverse=True):
        path = folder / f"checkpoint-{number}"
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
def full_disk_told(what: Path) -> Iterator[None]:
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

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        """Say where the run goes on from.

        Args:
            checkpoint: What `Trainer.train(resume_from_checkpoint=...)` gets; None: a fresh run, or the checkpoint
                of the step that the run resumes at, in `output_dir`.
        """
        self.checkpoint = None if checkpoint is None else Path(checkpoint)

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what is written, by name."""
        return {f"{_TRAINED}{name}": tensor for name, tensor in weights_of(model).items()}

    def restore(self, model: nn.Module, stored: dict[str, Tensor]) -> None:
        """Take back what was written; the model holds the weights of `model.safetensors` at that time."""
        trained = {name.removeprefix(_TRAINED): stored[name] for name in stored if name.startswith(_TRAINED)}
        copy_weights(trained, weights_of(model))

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Take the weights of the checkpoint that the run resumes from.

        Raises:
            HalflabelError: If it was not written with this callback, or by a run with other settings.
        """
        if not state.global_step:
            return
        folder = self.checkpoint or Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        path = folder / TRAINING_WEIGHTS
        if not path.is_file():
            raise HalflabelError(f"{path}: no such file, and this run cannot resume without it; start it afresh")
        try:
            self.restore(model, load_file(path, device=str(model.device)))
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
