"""A recipe's model and Trainer: what is built, what of it is trained, and what happens at each step."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from ..data.pixels import PixelDataset, collate
from ..metrics.trainer import BatchMetrics, trainer_metrics
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.labels import IGNORE_INDEX, IntMatrix, count_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe
from .averaging import AverageWeights
from .epoch_lines import say_epochs
from .features import ChangeViews
from .lora import add_lora
from .mixing import MixingCollator
from .objective import TargetCounts, loss_configuration
from .preparation import TrainingData
from .resuming import TRAINING_WEIGHTS, KeepTrainingWeights
from .settings import RecipeArguments
from .teacher import Teacher, TeacherStudentTrainer, TwoViews
from .trainer import MultiLabelTrainer
from .transfer import freeze, optimizer_cls_and_kwargs
from .unfreezing import UnfreezeGradually

log = logging.getLogger(__name__)


class DropBatchMeanLoss(TrainerCallback):
    """Leave `eval_loss` out of the log: it is a mean of batch means, not the mean over known entries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Remove it; `eval_known_loss` stands there instead."""
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            if entry is not None:
                entry.pop("eval_loss", None)


def build_model(
    settings: RecipeArguments, data: TrainingData
) -> tuple[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor]:
    """Return the recipe's model, all of it trainable, and its image processor.

    Raises:
        HalflabelError: On a backbone, head or loss that does not fit, or weights that cannot be had.
    """
    model = TimmMultiLabelForImageClassification.from_backbone(
        settings.backbone,
        data.names,
        weights=None if settings.weights == "none" else settings.weights,
        head=settings.head,
        head_args=settings.head_args,  # type: ignore[arg-type]
        backbone_args=settings.backbone_args,  # type: ignore[arg-type]
        **loss_configuration(settings, data.target_counts(settings), data.names),
    )
    return model, TimmMultiLabelImageProcessor.from_backbone(model.backbone)


def choose_trained(model: TimmMultiLabelForImageClassification, settings: RecipeArguments) -> None:
    """Freeze what the recipe freezes, or put in the adapters that it trains instead.

    Raises:
        HalflabelError: If a pattern matches nothing, or peft is missing.
    """
    if settings.freeze_backbone:
        model.freeze_backbone()
    if settings.freeze:
        freeze(model, settings.freeze)
    if settings.lora_rank is not None:
        adapted = add_lora(model, settings.lora_rank, settings.lora_alpha, settings.lora_targets)
        log.info("adapters in %d layers: %s", len(adapted), shortlist(adapted))


def lay_out(model: TimmMultiLabelForImageClassification, recipe: Recipe) -> None:
    """Put the weights of convolutions into the memory layout in which they are faster, unless that is switched off."""
    training = recipe.training
    if recipe.settings.channels_last and (training.device.type == "cpu" or training.bf16 or training.fp16):
        torch.nn.Module.to(model, memory_format=torch.channels_last)


def make_trainer(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    datasets: dict[str, Any],
    data: TrainingData,
    checkpoint: str | None = None,
) -> Trainer:
    """Return the Trainer of a recipe.

    Args:
        recipe: Its training arguments say whether and when to validate; without a measurable split they are changed.
        model: See `build_model` and `choose_trained`.
        datasets: See `preparation.make_datasets`.
        data: What they were made of.
        checkpoint: Where training goes on from; None: a fresh start.

    Raises:
        HalflabelError: On settings that contradict the data or the checkpoint.
    """
    arguments = recipe.training
    validated = "validation" in datasets and _is_measurable(datasets["validation"].labels)
    if "validation" in datasets and not validated:
        log.warning("no label has both a known yes and a known no in the validation split: the last epoch is kept")
    if not validated:
        arguments.eval_strategy = arguments.eval_strategy.__class__("no")
        arguments.load_best_model_at_end = False
    elif arguments.save_strategy != "no" and arguments.eval_strategy == arguments.save_strategy:
        arguments.load_best_model_at_end = True
    train = datasets["train"]
    teacher = _make_teacher(recipe.settings, train, data, checkpoint)
    callbacks = _transfer_callbacks(recipe.settings, checkpoint, teacher)
    if data.stream is None:
        callbacks.append(ChangeViews(train))
    patience = recipe.settings.early_stopping_patience
    if patience is not None:
        if not validated:
            raise HalflabelError("early_stopping_patience needs a validation split: set validation_share above 0")
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=patience))
    if data.stream is not None and arguments.accelerator_config.dispatch_batches is None:  # type: ignore[union-attr]
        arguments.accelerator_config.dispatch_batches = False  # type: ignore[union-attr] # each reads its own shards
    trainer_class: Any = MultiLabelTrainer
    if teacher is not None:
        trainer_class = partial(TeacherStudentTrainer, teacher=teacher)
        train = TwoViews(train, _plain(train, model, recipe.settings), _unknown(train, data))
    trainer: Trainer = trainer_class(
        model=model,
        args=arguments,
        data_collator=collate,
        train_collator=_mixing_collator(recipe),
        train_dataset=train,
        eval_dataset=datasets["validation"] if validated else None,
        compute_metrics=BatchMetrics() if arguments.batch_eval_metrics else trainer_metrics,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(
            arguments, recipe.settings.layer_decay, recipe.settings.head_lr_multiplier
        ),
        images_in_stream=None if data.stream is None else data.counts.images,
    )
    trainer.callback_handler.callbacks.insert(0, DropBatchMeanLoss())  # before those that print or report
    return say_epochs(trainer)


def _mixing_collator(recipe: Recipe) -> MixingCollator | None:
    settings = recipe.settings
    if settings.mixing is None:
        return None
    collator = MixingCollator(collate, settings.mixing, settings.loss, **(settings.mixing_args or {}))  # type: ignore[arg-type]
    images, batch = collator.mixing_args.get("images", 2), recipe.training.per_device_train_batch_size
    if batch < images:
        raise HalflabelError(f"mixing: {images} images are mixed, and per_device_train_batch_size is {batch}")
    return collator


def _unknown(train: PixelDataset, data: TrainingData) -> NDArray[np.bool_]:
    """Return which entries nobody answered and no policy fills; those that nobody could tell are not among them."""
    return np.asarray((data.images.of_split("train").labels == IGNORE_INDEX) & (train.labels < 0))


def _make_teacher(
    settings: RecipeArguments, train: PixelDataset, data: TrainingData, checkpoint: str | None
) -> Teacher | None:
    """Return the recipe's teacher, or None where it has none or where there is nothing to teach."""
    if settings.teacher_weight is None:
        return None
    if not _unknown(train, data).any():
        log.warning("teacher_weight: no training entry is unknown, so there is nothing to learn from; training plainly")
        return None
    counts = TargetCounts.of(train.labels)
    both = (counts.positive > 0) & (counts.positive < counts.answered)
    prevalence = np.where(both, counts.positive / np.maximum(counts.answered, 1), np.nan)
    assert settings.ema_decay is not None
    return Teacher(
        settings.ema_decay,
        torch.from_numpy(prevalence).float(),
        settings.teacher_weight,
        settings.teacher_ramp,
        settings.teacher_share,
        checkpoint,
    )


def _plain(train: PixelDataset, model: TimmMultiLabelForImageClassification, settings: RecipeArguments) -> PixelDataset:
    """Return the training pictures as evaluation shows them."""
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    return train.with_transform(processor.eval_transform(), processor.needed_side() if settings.fast_decode else None)


def _transfer_callbacks(
    settings: RecipeArguments, checkpoint: str | None, teacher: Teacher | None
) -> list[TrainerCallback]:
    """Return what happens to the weights during training."""
    callbacks: list[TrainerCallback] = []
    if settings.unfreeze_every is not None:
        callbacks.append(UnfreezeGradually(settings.unfreeze_every))
    if teacher is not None:
        callbacks.append(teacher)
    elif settings.ema_decay is not None:
        callbacks.append(AverageWeights(settings.ema_decay, checkpoint))
    elif settings.lora_rank is not None:
        callbacks.append(KeepTrainingWeights(checkpoint))
    elif checkpoint is not None and (Path(checkpoint) / TRAINING_WEIGHTS).is_file():
        raise HalflabelError(f"{checkpoint} was written with ema_decay or lora_rank, and goes on only with the same")
    return callbacks


def _is_measurable(labels: IntMatrix) -> bool:
    """Tell whether mAP is defined: an epoch cannot be the best by a measure that is not."""
    counts = count_labels(labels)
    return bool(((counts.positive > 0) & (counts.negative > 0)).any())
