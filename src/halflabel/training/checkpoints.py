"""Checkpoints that are whole or not there, and that resume exactly: what they hold, and which is the last one.

Also what lies beside a model in a checkpoint where the model is not what the optimizer works on.
"""

import contextlib
import json
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainerState
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..data.files import sync_files, sync_folder, write_whole
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


def write_in_order(folder: Path, files: Mapping[str, str]) -> None:
    """Write files by their names; the last, which says that a run is done, when the disk holds all of the folder's."""
    *first, last = files
    for name in first:
        write_whole(folder / name, files[name])
    sync_files(path for path in folder.glob("[!.]*") if path.is_file())
    write_whole(folder / last, files[last])


def move_to_its_place(unfinished: Path, place: Path) -> None:
    """Give a whole checkpoint its name when the disk holds it; one that has the name already makes way."""
    sync_files(path for path in unfinished.rglob("*") if path.is_file())
    sync_folder(unfinished)
    replaced = unfinished.with_name("replaced")
    shutil.rmtree(replaced, ignore_errors=True)
    if place.exists():
        place.rename(replaced)
    unfinished.rename(place)
    sync_folder(place.parent)
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


class WholeCheckpoints(Trainer):
    """A Trainer whose checkpoints are there as a whole or not at all, and from which a run goes on exactly.

    The last one stays when training is over, for what follows may be killed too. Where the stock Trainer saves and
    pushes `training_args.bin`, a pickle with the Hub's token in it, this one does not; it pushes nothing before the
    end, whatever `hub_strategy` says.
    """

    trained_on: dict[str, Any] | None = None
    """Written into each checkpoint, see `check_same_run`."""

    _saving = False

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ANN401 - transformers' own contract
        """Return where checkpoints are; while one is written, where it is until it is whole."""
        folder = super()._get_output_dir(trial)
        return str(Path(folder, UNFINISHED)) if self._saving else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:  # noqa: ANN401 - transformers' own contract
        """Write a checkpoint beside its place, move it there when all processes are done, and then drop older ones."""
        place = Path(self._get_output_dir(trial), f"checkpoint-{self.state.global_step}")
        unfinished = place.parent / UNFINISHED / place.name
        self._saving = True
        try:
            with disk_faults_told(place):
                self._write_whole(model, trial, unfinished, place)
        except HalflabelError:
            shutil.rmtree(unfinished.parent, ignore_errors=True)  # half of one only fills the disk
            raise
        finally:
            self._saving = False
        if self.args.should_save:
            remove_older(place, self.args.save_total_limit, self.state.best_model_checkpoint)

    def _write_whole(self, model: nn.Module, trial: Any, unfinished: Path, place: Path) -> None:  # noqa: ANN401
        if self.args.should_save and not self.args.save_only_model:
            for callback in self._keeping:
                callback.write(self.accelerator.unwrap_model(model), unfinished)
        super()._save_checkpoint(model, trial)
        if self.args.should_save and self.trained_on is not None:
            (unfinished / TRAINED_ON).write_text(json.dumps(self.trained_on, indent=1) + "\n", encoding="utf-8")
        if self.state.best_model_checkpoint == str(unfinished):
            self.state.best_model_checkpoint = str(place)
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()  # each writes the state of its own generators
        if self.args.should_save:
            move_to_its_place(unfinished, place)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Refuse a checkpoint of other labels: its weights would be taken for theirs."""
        names = self.accelerator.unwrap_model(self.model).config.id2label
        check_labels(Path(resume_from_checkpoint), list(names.values()))
        super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _init_training_state(self, *args: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        """Know the best checkpoint beside the one that the run goes on from, also where their folder was moved to.

        Where that is the end of its training, no step is taken: the stock Trainer takes one more if the training ends
        within an epoch, and forgets how long patience has waited.

        Raises:
            HalflabelError: If that was written by a run with `KeepTrainingWeights`, and this one has no such callback.
        """
        found, (max_steps, _, epochs, checkpoint, _) = super()._init_training_state(*args), args
        for callback in self._keeping:
            callback.checkpoint = checkpoint and Path(checkpoint)
        if checkpoint is None:
            return found
        best = Path(checkpoint).with_name(f"checkpoint-{self.state.best_global_step}")
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if not self._keeping and Path(checkpoint, TRAINING_WEIGHTS).is_file():
            raise HalflabelError(
                f"{checkpoint} was written with ema_decay or lora_rank, and goes on only with the same"
            )
        impatient = self._restore_patience()
        if impatient or self.state.global_step >= max_steps:
            log.warning("%s is the end of its training: no step is left", checkpoint)
            return epochs, 0
        return found

    def _restore_patience(self) -> bool:
        """Wait for a better evaluation as long as had been waited at the checkpoint; tell whether that was too long."""
        stored: Any = self.state.stateful_callbacks
        for stopping in self.callback_handler.callbacks:
            if isinstance(stopping, EarlyStoppingCallback):
                name = "early_stopping_patience_counter"
                # A run that waits for the first time must be among those whose states the next checkpoint holds.
                state = stored.setdefault(EarlyStoppingCallback.__name__, stopping.state())
                stopping.early_stopping_patience_counter = state["attributes"][name]
                return bool(state["attributes"][name] >= stopping.early_stopping_patience)
        return False

    def _finalize_training(self, *args: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        """Keep the last checkpoint, which the stock one removes where only the best is to stay."""
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            return super()._finalize_training(*args)  # type: ignore[no-untyped-call]
        finally:
            self.args.save_total_limit = limit

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        """Save the model, and no pickle beside it."""
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            Path(output_dir or str(self.args.output_dir), TRAINING_ARGS_NAME).unlink(missing_ok=True)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Push nothing: what is pushed on the way is half a model, with a pickle that holds the token."""

    @property
    def _keeping(self) -> list[KeepTrainingWeights]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, KeepTrainingWeights)]
