"""A recipe's run: data, model, Trainer, test, and the output folder."""

import copy
import json
import logging
import shutil
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from .arguments import INFORMATION, Recipe, RecipeArguments
from .averaging import AverageWeights
from .configuration_timm_multilabel import TimmMultiLabelConfig
from .data import FeatureDataset, collate
from .errors import HalflabelError, shortlist
from .features import ChangeViews
from .image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .inference import sigmoid
from .labels import IntMatrix, count_labels
from .lora import add_lora, merge_lora
from .metrics import average_precision, evaluate_scores, known_loss, mean_defined, roc_auc
from .model_card import render_card
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .objective import loss_configuration, training_targets
from .plots import draw_examples
from .preparation import SKIPPED, TrainingData, make_datasets, prepare_data, report_labels, start_head
from .resuming import TRAINING_WEIGHTS, KeepTrainingWeights
from .trainer import MultiLabelTrainer
from .transfer import freeze, optimizer_cls_and_kwargs
from .unfreezing import UnfreezeGradually

log = logging.getLogger(__name__)
LIBRARIES = ("halflabel", "torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "safetensors")


@dataclass(frozen=True)
class Result:
    """What a run found: the layout of `metrics.json`, and where everything lies."""

    metrics: dict[str, Any]
    folder: Path


class DropBatchMeanLoss(TrainerCallback):
    """Leave `eval_loss` out of the log: it is a mean of batch means, not the mean over known entries."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Remove it; `eval_known_loss` stands there instead."""
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            if entry is not None:
                entry.pop("eval_loss", None)


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Measure logits on known entries, for the Trainer: `mAP`, `mAUROC`, `known_loss`, `undefined_labels` (a count)."""
    logits, labels = np.asarray(prediction.predictions, dtype=np.float64), np.asarray(prediction.label_ids)
    ap = average_precision(logits, labels)
    return {
        "mAP": mean_defined(ap),
        "mAUROC": mean_defined(roc_auc(logits, labels)),
        "known_loss": known_loss(logits, labels),
        "undefined_labels": int(np.isnan(ap).sum()),
    }


def library_versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    return {name: version(name) for name in LIBRARIES}


def train(recipe: Recipe) -> Result:
    """Run a recipe from data to the saved, tested model.

    Raises:
        HalflabelError: On any fault of the recipe or of the data, before training starts.
    """
    settings, folder = recipe.settings, recipe.folder
    checkpoint = _checkpoint(recipe, folder)
    data = prepare_data(recipe)
    report_labels(data.counts, data.names, settings.strict)
    set_seed(recipe.training.seed)
    model, processor = _build_model(settings, data)
    datasets = make_datasets(recipe, model, processor, data)
    trainer = _make_trainer(recipe, model, datasets, data, checkpoint)
    _clear(folder, checkpoint)
    if data.skipped and trainer.is_world_process_zero():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / SKIPPED).write_text("\n".join(data.skipped) + "\n", encoding="utf-8")
    trainer.train(resume_from_checkpoint=checkpoint)
    if settings.lora_rank is not None:
        merge_lora(model)
    metrics = _test(trainer, datasets, data)
    if settings.compare_unknown_as_negative:
        metrics["unknown_as_negative"] = _train_unknown_as_negative(recipe, model, datasets, data)
    if settings.bad_images == "skip":
        metrics["skipped_images"] = _count_skipped(folder / SKIPPED)
    if trainer.is_world_process_zero():
        _save(recipe, trainer, processor, metrics, data)
        draw_examples(data.images.of_split("train"), model, processor, folder / "examples.png")
    return Result(metrics, folder)


def _count_skipped(path: Path) -> int:
    """Count the pictures that were left out; a stream notes one again in every pass."""
    if not path.is_file():
        return 0
    lines = list(dict.fromkeys(path.read_text(encoding="utf-8").splitlines()))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _checkpoint(recipe: Recipe, folder: Path) -> str | None:
    """Return the checkpoint to go on from, or None for a fresh start."""
    asked = recipe.training.resume_from_checkpoint
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    if asked in (None, "false", "False"):
        if last and not (folder / "metrics.json").is_file():
            raise HalflabelError(
                f"{folder} holds an unfinished run: add --resume_from_checkpoint to go on with it, "
                "or give another --output_dir"
            )
        return None
    if asked not in ("true", "True"):
        if not Path(asked).is_dir():
            raise HalflabelError(f"resume_from_checkpoint {asked!r}: no such folder")
        return str(asked)
    if last is None:
        raise HalflabelError(f"{folder} holds no checkpoint to resume from; leave --resume_from_checkpoint out")
    return str(last)


def _clear(folder: Path, checkpoint: str | None) -> None:
    """Remove what an earlier, finished run left, so that its checkpoints cannot be taken for this run's."""
    if checkpoint is None and folder.is_dir():
        for name in ("metrics.json", SKIPPED):
            (folder / name).unlink(missing_ok=True)
        for old in folder.glob("checkpoint-*"):
            shutil.rmtree(old, ignore_errors=True)  # several processes may clear at once


def _build_model(
    settings: RecipeArguments, data: TrainingData
) -> tuple[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor]:
    model = TimmMultiLabelForImageClassification.from_backbone(
        settings.backbone,
        data.names,
        weights=None if settings.weights == "none" else settings.weights,
        head=settings.head,
        head_args=settings.head_args,  # type: ignore[arg-type]
        backbone_args=settings.backbone_args,  # type: ignore[arg-type]
        **loss_configuration(settings, data.target_counts(settings), data.names),
    )
    if settings.freeze_backbone:
        model.freeze_backbone()
    if settings.freeze:
        freeze(model, settings.freeze)
    if settings.lora_rank is not None:
        adapted = add_lora(model, settings.lora_rank, settings.lora_alpha, settings.lora_targets)
        log.info("adapters in %d layers: %s", len(adapted), shortlist(adapted))
    return model, TimmMultiLabelImageProcessor.from_backbone(model.backbone)


def _make_trainer(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    datasets: dict[str, Any],
    data: TrainingData,
    checkpoint: str | None = None,
) -> Trainer:
    arguments = recipe.training
    validated = "validation" in datasets and _is_measurable(datasets["validation"].labels)
    if "validation" in datasets and not validated:
        log.warning("no label has both a known yes and a known no in the validation split: the last epoch is kept")
    if not validated:
        arguments.eval_strategy = arguments.eval_strategy.__class__("no")
        arguments.load_best_model_at_end = False
    elif arguments.save_strategy != "no" and arguments.eval_strategy == arguments.save_strategy:
        arguments.load_best_model_at_end = True
    callbacks = _transfer_callbacks(recipe.settings, checkpoint)
    if recipe.settings.views > 1:
        callbacks.append(ChangeViews(datasets["train"]))
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
        train_dataset=datasets["train"],
        eval_dataset=datasets["validation"] if validated else None,
        compute_metrics=compute_metrics,
        callbacks=callbacks,
        optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(
            arguments, recipe.settings.layer_decay, recipe.settings.head_lr_multiplier
        ),
        images_in_stream=None if data.stream is None else data.counts.images,
    )
    trainer.callback_handler.callbacks.insert(0, DropBatchMeanLoss())  # before those that print or report
    return trainer


def _transfer_callbacks(settings: RecipeArguments, checkpoint: str | None) -> list[TrainerCallback]:
    """Return what happens to the weights during training."""
    callbacks: list[TrainerCallback] = []
    if settings.unfreeze_every is not None:
        callbacks.append(UnfreezeGradually(settings.unfreeze_every))
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


def _test(trainer: Trainer, datasets: dict[str, Any], data: TrainingData) -> dict[str, Any]:
    """Touch the test split, once, at the end."""
    if "test" not in datasets:
        log.warning("there is no test split: metrics.json holds no result")
        return {"split": None}
    logits = np.asarray(trainer.predict(datasets["test"]).predictions, dtype=np.float64)
    return {"split": "test", **evaluate_scores(sigmoid(logits), datasets["test"].labels, data.names)}


def _train_unknown_as_negative(
    recipe: Recipe, model: TimmMultiLabelForImageClassification, datasets: dict[str, Any], data: TrainingData
) -> dict[str, Any]:
    """Train the same recipe on the same budget with unknown taken as negative, and return its test metrics."""
    log.info("once more, with unknown taken as negative")
    settings = replace(recipe.settings, compare_unknown_as_negative=False, unknown="negative")
    training = copy.copy(recipe.training)
    training.output_dir = str(recipe.folder / "unknown_as_negative")
    other = replace(recipe, settings=settings, training=training)
    set_seed(training.seed)
    if settings.cache_features:
        counts = data.target_counts(settings)
        objective = loss_configuration(settings, counts, data.names)
        config = TimmMultiLabelConfig(**{**model.config.to_dict(), **objective})
        rival = TimmMultiLabelForImageClassification(config, backbone=model.backbone)
        rival.freeze_backbone()
        targets = training_targets(data.images.of_split("train").labels, data.names, settings)
        sets = {**datasets, "train": FeatureDataset(datasets["train"].features, targets, settings.views)}
        start_head(rival, sets["train"], counts)
    else:
        rival, processor = _build_model(settings, data)
        sets = make_datasets(other, rival, processor, data)
    trainer = _make_trainer(other, rival, sets, data)
    _clear(other.folder, None)
    trainer.train()
    if settings.lora_rank is not None:
        merge_lora(rival)
    metrics = _test(trainer, sets, data)
    if trainer.is_world_process_zero():
        shutil.rmtree(other.folder, ignore_errors=True)
    return metrics


def _save(
    recipe: Recipe,
    trainer: Trainer,
    processor: TimmMultiLabelImageProcessor,
    metrics: dict[str, Any],
    data: TrainingData,
) -> None:
    folder = recipe.folder
    trainer.save_model(str(folder))
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; recipe.yaml says the same
    processor.save_pretrained(folder)
    resolved = {**recipe.given, INFORMATION: library_versions()}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    card = render_card(recipe.name, resolved, metrics, data.counts, data.names)
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")  # last: it is done
