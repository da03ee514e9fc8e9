"""The Trainer with exact counts, and how a recipe's is made.

What a loss is divided by is counted over the whole optimizer step on all devices.
"""

import copy
import itertools
import logging
import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK, TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import rotate_checkpoints, unwrap_peft_model

from ..data.pixels import FeatureDataset, PixelDataset, collate
from ..metrics.trainer import BatchMetrics, trainer_metrics
from ..model.decisions import check_logits
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as Processor
from ..model.labels import IGNORE_INDEX, UNCERTAIN, count_labels
from ..model.losses import Loss
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from ..model.modeling_timm_multilabel import short_card
from ..model.objective import count_items
from .checkpoints import (
    TRAINING_WEIGHTS,
    UNFINISHED,
    AverageWeights,
    KeepTrainingWeights,
    disk_faults_told,
    move_to_its_place,
)
from .keys import TrainingKeys
from .preparation import TrainingData, loss_configuration
from .recipe import Recipe
from .transfer import add_lora, freeze, optimizer_cls_and_kwargs

log = logging.getLogger(__name__)
_REPEATED = "repeated_images"


def own_model(model: Any) -> Model:  # noqa: ANN401 - a module
    """Look through what wraps a model: several devices, compilation, peft.

    Raises:
        HalflabelError: If it is not one of halflabel.
    """
    found = unwrap_peft_model(extract_model_from_parallel(model, keep_torch_compile=False))
    if not isinstance(found, Model):
        raise HalflabelError(f"MultiLabelTrainer trains models of halflabel, not a {type(found).__name__}")
    return found


class TellEpoch(TrainerCallback):
    """Tell the model and the training data how many epochs are done; a resumed run is told right too.

    Some losses change with the epochs, and so does what is shown of an image: the draws of its transform, or the next
    of its views. A model that is trained further loses its decisions, which were fitted to its scores.
    """

    def __init__(self, dataset: Any = None, images_in_stream: int | None = None) -> None:  # noqa: ANN401 - any data set
        """Keep what is told.

        Args:
            dataset: The training data; only ours are told. Accelerate tells them too, but not on several devices.
            images_in_stream: How many images a pass over a stream has, which has no epochs of its own; None: no stream.
        """
        self.dataset = dataset if isinstance(dataset, PixelDataset | FeatureDataset) else None
        self.images_in_stream = images_in_stream

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Refuse a configuration that could not be saved; drop decisions, which belong to the weights as they were."""
        config = own_model(model).config
        config.validate()
        if config.decisions is not None:
            config.decisions = None
            log.warning("the decisions are dropped: training changes the scores they were fitted on; calibrate again")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Tell the whole number of epochs done; a run resumed within an epoch has a fraction more."""
        epoch = own_model(model).epoch = int((state.epoch or 0) + 1e-6)
        if self.dataset is not None:
            self.dataset.set_epoch(epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Count the passes over a stream."""
        if self.images_in_stream:
            images = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            own_model(model).epoch = images // self.images_in_stream


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

    def __init__(self, *args: Any, images_in_stream: int | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Take what `transformers.Trainer` takes; `images_in_stream` is for a stream, see `TellEpoch`."""
        self._saving = False
        super().__init__(*args, **kwargs)
        if self.args.batch_eval_metrics and self.compute_metrics is trainer_metrics:
            self.compute_metrics = BatchMetrics()
        if max(self.args.world_size, self.args.n_gpu) > 1 and not self.args.average_tokens_across_devices:
            raise HalflabelError("average_tokens_across_devices must be true on several devices for an exact loss")
        self.add_callback(TellEpoch(self.train_dataset, images_in_stream))

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
            best = self.state.best_model_checkpoint
            rotate_checkpoints(str(place.parent), self.args.save_total_limit, best, use_mtime=True)

    def _write_whole(self, model: nn.Module, trial: Any, unfinished: Path, place: Path) -> None:  # noqa: ANN401
        if self.args.should_save and not self.args.save_only_model:
            for callback in self._keeping:
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
        """Know the best checkpoint beside the one that the run goes on from, also where their folder was moved to.

        Raises:
            HalflabelError: If that was written by a run with `KeepTrainingWeights`, and this one has no such callback.
        """
        found, (*_, checkpoint, _) = super()._init_training_state(*args), args
        for callback in self._keeping:
            callback.checkpoint = checkpoint and Path(checkpoint)
        if checkpoint is not None:
            best = Path(checkpoint).with_name(f"checkpoint-{self.state.best_global_step}")
            if best.is_dir():
                self.state.best_model_checkpoint = str(best)
            if not self._keeping and Path(checkpoint, TRAINING_WEIGHTS).is_file():
                raise HalflabelError(
                    f"{checkpoint} was written with ema_decay or lora_rank, and goes on only with the same"
                )
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
            config = own_model(self.model).config
            path.write_text(str(short_card(config, self.hub_model_id or path.parent.name)), encoding="utf-8")

    def log(self, logs: dict[str, float], *args: Any) -> None:  # noqa: ANN401 - transformers' own contract
        """Leave out `eval_loss`, a mean of batch means, where the mean over known entries stands beside it."""
        known = "eval_known_loss" in logs
        super().log({key: value for key, value in logs.items() if not (known and key == "eval_loss")}, *args)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        """Evaluate; entries that an evaluation left when it broke off are not measured again."""
        if isinstance(self.compute_metrics, BatchMetrics):
            self.compute_metrics.begin()
        return super().evaluation_loop(*args, **kwargs)

    def prediction_step(self, model: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - likewise
        """Evaluate a batch.

        Raises:
            HalflabelError: If a logit is not finite, also of an unknown entry.
        """
        found = super().prediction_step(model, *args, **kwargs)
        if found[1] is not None and not bool(found[1].isfinite().all()):
            check_logits(found[1].float().cpu().numpy(), own_model(self.model).config.label_space.names)
        return found

    @property
    def _keeping(self) -> list[KeepTrainingWeights]:
        return [one for one in self.callback_handler.callbacks if isinstance(one, KeepTrainingWeights)]

    @property
    def _loss(self) -> Loss:
        return own_model(self.model).loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Collect the batches of a step, take repeated images out of them, and count."""
        batches = [self._without_repeats(batch) for batch in itertools.islice(epoch_iterator, num_batches)]
        return batches, self._get_num_items_in_batch(batches, device)

    def _without_repeats(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Take the labels from images that only fill up the last step; they also count for nothing.

        Accelerate fills it so that every process has a whole batch; `remainder` is the number of images in it that are
        not repeats, counted through the processes in order.
        """
        state, labels = self.accelerator.gradient_state, batch["labels"]
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder <= 0:
            return batch
        first = self.args.process_index * len(labels)
        repeated = torch.arange(first, first + len(labels), device=labels.device) >= state.remainder
        code = UNCERTAIN if self._loss.uses_unknown else IGNORE_INDEX
        return {**batch, "labels": labels.masked_fill(repeated[:, None], code), _REPEATED: repeated}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """Count a step's entries per label and its images, over all processes; shape (num_labels + 1,)."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = torch.stack([self._count(batch) for batch in batch_samples]).sum(dim=0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts[None]).sum(dim=0)
        return counts.expand(self.args.n_gpu, -1) if self.args.n_gpu > 1 else counts

    def _count(self, batch: dict[str, Any]) -> Tensor:
        counts = count_items(batch["labels"], self._loss)
        repeated = batch.pop(_REPEATED, None)  # the model knows nothing of it
        if repeated is not None:
            counts[-1] -= repeated.sum()
        return counts


class Progress(ProgressCallback):
    """The Trainer's progress bar as one live line: what was logged last stands behind it; evaluation has no bar.

    With `lines` every log is a line of its own instead. Where `disable_tqdm` is set there is no bar, but these lines.
    """

    def __init__(self, lines: bool = False) -> None:
        """Say whether logs are lines."""
        super().__init__()
        self.lines = lines

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the bar."""
        self.current_step = 0
        if state.is_world_process_zero:
            bar: Any = tqdm(total=state.max_steps, dynamic_ncols=True, disable=args.disable_tqdm)
            self.training_bar = bar

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Show what was logged."""
        if self.training_bar is not None and logs:
            show = self.training_bar.write if self.lines else self.training_bar.set_postfix_str
            show(describe_log(logs))

    def on_prediction_step(self, args: Any, state: Any, control: Any, *_: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Show nothing."""


_WORDS = {
    "loss": "training loss",
    "learning_rate": "learning rate",
    "eval_mAP": "validation mAP",
    "eval_mAUROC": "mAUROC",
    "eval_known_loss": "loss",
    "eval_undefined_labels": "undefined labels",
    "train_runtime": "seconds of training",
}
"""What stands in the line of a log; `training_log.json` holds everything."""


def describe_log(logs: Mapping[str, Any]) -> str:
    """Return what the Trainer logs as one line: the epoch, and of its numbers those that one looks at."""
    parts = []
    for key, value in logs.items():
        if key in _WORDS and (value or key != "eval_undefined_labels"):
            shown = value if not isinstance(value, float) else "undefined" if math.isnan(value) else f"{value:.3g}"
            parts.append(f"{_WORDS[key]} {shown}")
    start = f"epoch {logs['epoch']:.4g}: " if "epoch" in logs else ""
    return start + ", ".join(parts)


def build_model(recipe: Recipe, data: TrainingData) -> tuple[Model, Processor]:
    """Return the recipe's model, all of it trainable, and its image processor.

    Raises:
        HalflabelError: On a backbone, head or loss that does not fit, or weights that cannot be had.
    """
    keys = recipe.model
    model = Model.from_backbone(
        keys.backbone,
        data.names,
        weights=keys.weights,
        head=keys.head,
        head_args=dict(keys.head_args or {}) or None,
        backbone_args=dict(keys.backbone_args or {}) or None,
        **loss_configuration(recipe, data.target_counts(recipe), data.names),
    )
    return model, Processor.from_backbone(model.backbone)


def choose_trained(model: Model, keys: TrainingKeys) -> None:
    """Freeze what the recipe freezes, or put in the adapters that it trains instead.

    Raises:
        HalflabelError: If a pattern matches nothing, or peft is missing.
    """
    if keys.freeze_backbone:
        model.freeze_backbone()
    if keys.freeze:
        freeze(model, keys.freeze)
    if keys.lora_rank is not None:
        adapted = add_lora(model, keys.lora_rank, keys.lora_alpha, keys.lora_targets)
        log.info("adapters in %d layers: %s", len(adapted), shortlist(adapted))


def make_trainer(recipe: Recipe, model: Model, datasets: dict[str, Any], data: TrainingData) -> MultiLabelTrainer:
    """Return the Trainer of a recipe, which validates where there is a validation split that can be measured.

    Raises:
        HalflabelError: On settings that contradict the data.
    """
    arguments, keys, train = copy.copy(recipe.arguments), recipe.training, datasets["train"]
    validated = False
    if "validation" in datasets:  # an epoch cannot be the best by a measure that is undefined
        counts = count_labels(datasets["validation"].labels)
        validated = bool(((counts.positive > 0) & (counts.negative > 0)).any())
    if "validation" in datasets and not validated:
        log.warning("no label has both a known yes and a known no in the validation split: the last epoch is kept")
    if not validated:
        arguments.eval_strategy = arguments.eval_strategy.__class__("no")
        arguments.load_best_model_at_end = False
    elif arguments.save_strategy != "no" and arguments.eval_strategy == arguments.save_strategy:
        arguments.load_best_model_at_end = True
    callbacks: list[TrainerCallback] = []  # what happens to the weights
    if keys.ema_decay is not None:
        callbacks.append(AverageWeights(keys.ema_decay))
    elif keys.lora_rank is not None:
        callbacks.append(KeepTrainingWeights())
    if data.stream is not None:
        config: Any = copy.copy(arguments.accelerator_config)  # by now no mapping any more
        if config.dispatch_batches is None:
            config.dispatch_batches = False  # each reads its own shards
        arguments.accelerator_config = config
    if keys.early_stopping_patience is not None:
        if not validated:
            raise HalflabelError("early_stopping_patience needs a validation split: set validation_share above 0")
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=keys.early_stopping_patience))
    trainer = MultiLabelTrainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=datasets["validation"] if validated else None,
        compute_metrics=trainer_metrics,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(arguments, keys.layer_decay, keys.head_lr_multiplier),
        images_in_stream=None if data.stream is None else data.counts.images,
    )
    for default in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
        trainer.remove_callback(default)
    trainer.add_callback(Progress(keys.log_epochs))
    return trainer
