"""A recipe's model and Trainer: what is built, what of it is trained, and what happens at each step."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from ..data.pixels import collate
from ..metrics.measures import trainer_metrics
from ..model.errors import HalflabelError, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.labels import IntMatrix, count_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe
from .averaging import AverageWeights
from .epoch_lines import say_epochs
from .features import ChangeViews
from .lora import add_lora
from .objective import loss_configuration
from .preparation import TrainingData
from .resuming import TRAINING_WEIGHTS, KeepTrainingWeights
from .settings import RecipeArguments
from .trainer import MultiLabelTrainer
from .transfer import freeze, optimizer_cls_and_kwargs

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
    callbacks = _transfer_callbacks(recipe.settings, checkpoint)
    if data.stream is None:
        callbacks.append(ChangeViews(train))
    patience = recipe.settings.early_stopping_patience
    if patience is not None:
        if not validated:
            raise HalflabelError("early_stopping_patience needs a validation split: set validation_share above 0")
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=patience))
    if data.stream is not None and arguments.accelerator_config.dispatch_batches is None:  # type: ignore[union-attr]
        arguments.accelerator_config.dispatch_batches = False  # type: ignore[union-attr] # each reads its own shards
    trainer = MultiLabelTrainer(
        model=model,
        args=arguments,
        data_collator=collate,
        train_dataset=train,
        eval_dataset=datasets["validation"] if validated else None,
        compute_metrics=trainer_metrics,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(
            arguments, recipe.settings.layer_decay, recipe.settings.head_lr_multiplier
        ),
        images_in_stream=None if data.stream is None else data.counts.images,
    )
    trainer.callback_handler.callbacks.insert(0, DropBatchMeanLoss())  # before those that print or report
    return say_epochs(trainer)


def _transfer_callbacks(settings: RecipeArguments, checkpoint: str | None) -> list[TrainerCallback]:
    """Return what happens to the weights during training."""
    callbacks: list[TrainerCallback] = []
    if settings.ema_decay is not None:
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
