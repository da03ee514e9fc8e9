"""The Trainer with exact counts: what a loss is divided by is counted over the whole optimizer step on all devices."""

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import rotate_checkpoints

from ..model.errors import HalflabelError
from ..model.labels import IGNORE_INDEX, UNCERTAIN
from ..model.losses import find_loss
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification, short_card
from ..model.objective import count_items
from .resuming import UNFINISHED, KeepTrainingWeights, full_disk_told, move_to_its_place

log = logging.getLogger(__name__)


class TellEpoch(TrainerCallback):
    """Tell the model how many epochs are done, for losses that change with them; a resumed run is told right too.

    A model that is trained further loses its decisions, which were fitted to its scores.

    Args:
        images_in_stream: How many images a pass over a stream has, which has no epochs of its own; None: no stream.
    """

    def __init__(self, images_in_stream: int | None = None) -> None:
        """Keep the number."""
        self.images_in_stream = images_in_stream

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Drop decisions that were fitted to the weights as they were."""
        if model.config.decisions is not None:
            model.config.decisions = None
            log.warning("the decisions are dropped: training changes the scores they were fitted on; calibrate again")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Set `model.epoch` to the whole number of epochs done; a run resumed within an epoch has a fraction more."""
        model.epoch = int((state.epoch or 0) + 1e-6)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Count the passes over a stream."""
        if self.images_in_stream:
            images = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            model.epoch = images // self.images_in_stream


class MultiLabelTrainer(Trainer):
    """`transformers.Trainer` for `TimmMultiLabelForImageClassification`: every normalizer and every loss is exact.

    The stock Trainer counts the known entries of a step, which is all that `normalizer="labels"` needs with bce, focal
    and asl. This one counts what `losses.count_items` counts, adds it up over accumulated batches and devices, and
    leaves out the images that Accelerate repeats to fill the last step of an epoch on several devices.

    A checkpoint is there as a whole or not at all, whenever the run is killed, and the last one stays when training is
    over, for what follows may be killed too.

    Where the stock Trainer saves and pushes `training_args.bin`, a pickle with the Hub's token in it, this one does
    not; it pushes nothing before the end, whatever `hub_strategy` says, and a card that is there stays. Everything else
    is the stock Trainer.

    Raises:
        HalflabelError: If `average_tokens_across_devices` is off on several devices: each would divide by its own.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401
        images_in_stream: int | None = None,
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take what `transformers.Trainer` takes.

        Args:
            args: Its positional arguments.
            images_in_stream: For training data without a length, see `TellEpoch`.
            kwargs: Its keyword arguments.
        """
        self._saving = False
        super().__init__(*args, **kwargs)
        if self.args.world_size > 1 and not self.args.average_tokens_across_devices:
            raise HalflabelError("average_tokens_across_devices must be true on several devices for an exact loss")
        self.add_callback(TellEpoch(images_in_stream))

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
            with full_disk_told(place):
                self._write_whole(model, trial, unfinished, place)
        except HalflabelError:
            shutil.rmtree(unfinished.parent, ignore_errors=True)  # half of one only fills the disk
            raise
        finally:
            self._saving = False
        if self.args.should_save:
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(place.parent), self.args.save_total_limit, best, use_mtime=True)

    def _write_whole(self, model: nn.Module, trial: Any, unfinished: Path, place: Path) -> None:  # noqa: ANN401
        if self.args.should_save and not self.args.save_only_model:
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, KeepTrainingWeights):
                    callback.write(self.accelerator.unwrap_model(model), unfinished)
        super()._save_checkpoint(model, trial)
        if self.state.best_model_checkpoint == str(unfinished):
            self.state.best_model_checkpoint = str(place)
            if self.args.should_save:
                self.state.save_to_json(str(unfinished / TRAINER_STATE_NAME))
        self.accelerator.wait_for_everyone()  # each writes the state of its own generators
        if self.args.should_save:
            move_to_its_place(unfinished, place)
        self.accelerator.wait_for_everyone()

    def _init_training_state(self, *args: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        """Know the best checkpoint beside the one that the run goes on from, also where their folder was moved to."""
        found, (*_, checkpoint, _) = super()._init_training_state(*args), args
        if checkpoint is not None:
            best = Path(checkpoint).with_name(f"checkpoint-{self.state.best_global_step}")
            if best.is_dir():
                self.state.best_model_checkpoint = str(best)
        return found

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

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - transformers' own contract
        """Write a short card of ours where there is no card."""
        path = Path(str(self.args.output_dir), "README.md")
        if self.is_world_process_zero() and not path.exists():
            model = self.accelerator.unwrap_model(self.model)
            path.write_text(str(short_card(model.config, self.hub_model_id or path.parent.name)), encoding="utf-8")

    @property
    def _loss_name(self) -> str:
        model = self.accelerator.unwrap_model(self.model)
        assert isinstance(model, TimmMultiLabelForImageClassification)
        return model.config.loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Collect the batches of a step, take repeated images out of them, and count."""
        batches = []
        for _ in range(num_batches):
            batch = next(epoch_iterator, None)
            if batch is None:
                break
            batches.append(self._without_repeats(batch))
        return batches, self._get_num_items_in_batch(batches, device)

    def _without_repeats(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take the labels from images that only fill up the last step; they also count for nothing."""
        repeated = self._repeated(len(batch["labels"]))
        if not bool(repeated.any()):
            return batch
        repeated = repeated.to(batch["labels"].device)
        code = UNCERTAIN if find_loss(self._loss_name).uses_unknown else IGNORE_INDEX
        labels = batch["labels"].masked_fill(repeated[:, None], code)
        return {**batch, "labels": labels, _REPEATED: repeated}

    def _repeated(self, rows: int) -> Tensor:
        """Return which rows of this process's last fetched batch are repeats.

        Accelerate fills the last step so that every process has a whole batch; `remainder` is the number of images in
        it that are not repeats, counted through the processes in order.
        """
        state = self.accelerator.gradient_state
        first = self.args.process_index * rows
        real = state.remainder if self.args.world_size > 1 and state.end_of_dataloader else -1
        return torch.arange(first, first + rows) >= real if real > 0 else torch.zeros(rows, dtype=torch.bool)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """Count a step's entries per label and its images, over all processes; shape (num_labels + 1,)."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = self._sum_over_processes(torch.stack([self._count(batch) for batch in batch_samples]), device)
        return counts.expand(self.args.n_gpu, -1) if self.args.n_gpu > 1 else counts

    def _sum_over_processes(self, counts: Tensor, device: torch.device) -> Tensor:
        """Add up counts of shape (batches, n) over the batches of a step and over all processes."""
        total = counts.sum(dim=0).to(device)
        return self.accelerator.gather(total[None]).sum(dim=0) if self.args.world_size > 1 else total

    def _count(self, batch: dict[str, Any]) -> Tensor:
        counts = count_items(batch["labels"], self._loss_name)
        repeated = batch.pop(_REPEATED, None)  # the model knows nothing of it
        if repeated is not None:
            counts[-1] -= repeated.sum()
        return counts


_REPEATED = "repeated_images"
