"""A recipe's run: data, model, Trainer, test, and the output folder."""

import copy
import json
import logging
import math
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from transformers import Trainer, set_seed

from ..decide.decision_fitting import fit_decisions
from ..decide.decision_report import decision_notes, measure_rule
from ..model.configuration_timm_multilabel import TimmMultiLabelConfig
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import INFORMATION, Recipe
from .building import make_trainer
from .checkpoint_checks import check_checkpoint
from .feature_shards import FeatureDataset
from .lora import merge_lora
from .objective import loss_configuration, training_targets
from .preparation import SKIPPED, TrainingData, count_skipped, prepare_data, report_labels, start_head
from .probing import PROBE, prepare_training
from .resuming import UNFINISHED, find_fault, full_disk_told, last_checkpoint
from .settings import RecipeArguments

log = logging.getLogger(__name__)
TRAINING_LOG = "training_log.json"
"""The file in the output folder with what the Trainer logged: losses, rates, and the measures on validation."""

UNKNOWN_AS_NEGATIVE = "unknown_as_negative"
"""The folder in the output folder for the training that it is compared with; removed at the end."""

LIBRARIES = ("halflabel", "torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "safetensors")


METRICS, RECIPE, PLOTS = "metrics.json", "recipe.yaml", "plots"
"""The files in the output folder with what was measured and with the resolved recipe, and the folder of pictures."""


@dataclass(frozen=True)
class Result:
    """What a run found: the layout of `metrics.json`, and where everything lies."""

    metrics: dict[str, Any]
    folder: Path


@dataclass(frozen=True)
class Trained:
    """A run when its model is saved and tested, for who writes its card and pictures.

    Attributes:
        recipe: What was run.
        model: The trained model, with its decision rule.
        processor: The model's.
        data: What it was trained on.
        test_labels: Those of the test split, shape (n, num_labels); None without one.
        test_logits: Same shape.
        metrics: The content of `metrics.json`.
        log_history: The Trainer's.
    """

    recipe: Recipe
    model: TimmMultiLabelForImageClassification
    processor: TimmMultiLabelImageProcessor
    data: TrainingData
    test_labels: NDArray[Any] | None
    test_logits: NDArray[Any] | None
    metrics: dict[str, Any]
    log_history: list[dict[str, Any]]


def library_versions() -> dict[str, str]:
    """Return the versions of what a result depends on."""
    return {name: version(name) for name in LIBRARIES}


def run_recipe(recipe: Recipe, present: Callable[[Trained], Any] = lambda trained: None) -> Result:
    """Run a recipe from data to the saved, tested model.

    Args:
        recipe: Nothing is pushed, whatever it says.
        present: Called by the main process when everything is saved, before what the run could go on from is removed.

    Raises:
        HalflabelError: On any fault of the recipe or of the data, before training starts.
    """
    settings, folder = recipe.settings, recipe.folder
    workers, cores = recipe.training.dataloader_num_workers, os.cpu_count() or 1
    if workers > cores:
        log.warning("dataloader_num_workers: %d processes would share %d cores; give at most %d", workers, cores, cores)
    checkpoint = _checkpoint(recipe, folder)
    data = prepare_data(recipe)
    report_labels(data.counts, data.names, settings.strict)
    set_seed(recipe.training.seed)
    model, processor, datasets = prepare_training(recipe, data, checkpoint)
    start = copy.deepcopy(model.head.state_dict())
    if checkpoint is not None:
        check_checkpoint(Path(checkpoint), model)
    trainer = make_trainer(recipe, model, datasets, data, checkpoint)
    if trainer.is_world_process_zero():
        _clear(folder, checkpoint)
        if data.skipped:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SKIPPED).write_text("\n".join(data.skipped) + "\n", encoding="utf-8")
    trainer.train(resume_from_checkpoint=checkpoint)
    if settings.lora_rank is not None:
        merge_lora(model)
    _fit_rule(trainer, model.config, datasets, settings)
    metrics, logits = _test(trainer, model.config, datasets, settings)
    if settings.compare_unknown_as_negative:
        metrics["unknown_as_negative"] = _train_unknown_as_negative(recipe, model, start, datasets, data)
    if settings.pseudo_labels is not None:
        metrics["pseudo_labels"] = datasets["train"].pseudo_labels
    if settings.bad_images == "skip":
        metrics["skipped_images"] = count_skipped(folder / SKIPPED)
    if trainer.is_world_process_zero():
        _save(recipe, trainer, processor, metrics)
        test_labels = None if logits is None else datasets["test"].labels
        history = trainer.state.log_history
        present(Trained(recipe, model, processor, data, test_labels, logits, metrics, history))
        _tidy(folder, trainer)
    return Result(metrics, folder)


def _checkpoint(recipe: Recipe, folder: Path) -> str | None:
    """Return the checkpoint to go on from, or None for a fresh start."""
    asked = recipe.training.resume_from_checkpoint
    if asked in (None, "false", "False"):
        if any(folder.glob("checkpoint-*")) and not (folder / METRICS).is_file():
            raise HalflabelError(
                f"{folder} holds an unfinished run: add --resume_from_checkpoint to go on with it, "
                "or give another --output_dir"
            )
        if (folder / METRICS).is_file():
            log.warning("%s holds a finished run, which this one replaces; another --output_dir would keep it", folder)
        return None
    if not recipe.resumes:
        fault = find_fault(Path(asked)) if Path(asked).is_dir() else "no such folder"
        if fault:
            raise HalflabelError(f"resume_from_checkpoint {asked!r}: {fault}")
        return str(asked)
    last = last_checkpoint(folder)
    if last is None:  # it was stopped early: whoever starts it again need not know how early
        log.warning("%s holds no checkpoint yet: starting from the beginning", folder)
    return last


def _clear(folder: Path, checkpoint: str | None) -> None:
    """Remove what an earlier, finished run left, so that its checkpoints cannot be taken for this run's.

    A run that goes on leaves what is damaged behind, or the Trainer would count it among those it may keep.
    """
    left = [path for path in folder.glob("checkpoint-*") if checkpoint is None or find_fault(path)]
    for old in (folder / UNFINISHED, *left):
        shutil.rmtree(old, ignore_errors=True)
    if checkpoint is None:
        for name in (METRICS, SKIPPED):
            (folder / name).unlink(missing_ok=True)
        for name in (PLOTS, UNKNOWN_AS_NEGATIVE):
            shutil.rmtree(folder / name, ignore_errors=True)


def _tidy(folder: Path, trainer: Trainer) -> None:
    """Remove, now that nothing is left to do, what a run goes on from that is killed before; the best one stays."""
    for name in (PROBE, UNKNOWN_AS_NEGATIVE):
        shutil.rmtree(folder / name, ignore_errors=True)
    best = folder / Path(trainer.state.best_model_checkpoint or "none").name
    if trainer.args.save_total_limit == 1 and best.is_dir():
        for path in folder.glob("checkpoint-*"):
            if path != best:
                shutil.rmtree(path)


def _fit_rule(
    trainer: Trainer, config: TimmMultiLabelConfig, datasets: dict[str, Any], settings: RecipeArguments
) -> None:
    """Fit calibration and thresholds on the validation split, and store them in the model's configuration."""
    if settings.decide is None:
        return
    if trainer.eval_dataset is None:
        log.warning("decide: no validation split to fit thresholds on, so yes is a score of at least 0.5")
        return
    logits = np.asarray(trainer.predict(datasets["validation"]).predictions)
    rule = fit_decisions(logits, datasets["validation"].labels, settings.decide, settings.calibration)
    config.decisions = rule.to_dict()
    if trainer.is_world_process_zero():
        for note in decision_notes(rule, config.label_space.names):
            log.warning("%s", note)


def _test(
    trainer: Trainer, config: TimmMultiLabelConfig, datasets: dict[str, Any], settings: RecipeArguments
) -> tuple[dict[str, Any], Any]:
    """Touch the test split, once, at the end; return its measures and its logits."""
    if "test" not in datasets:
        log.warning("there is no test split: metrics.json holds no result")
        return {"split": None}, None
    logits, rule = np.asarray(trainer.predict(datasets["test"]).predictions), config.decision_rule
    ci = settings.ci if trainer.is_world_process_zero() else None  # resampling takes its time; one process is enough
    labels, names = datasets["test"].labels, config.label_space.names
    return {"split": "test", **measure_rule(rule, logits, labels, names, ci)}, logits


def _train_unknown_as_negative(
    recipe: Recipe,
    model: TimmMultiLabelForImageClassification,
    start: Mapping[str, Any],
    datasets: dict[str, Any],
    data: TrainingData,
) -> dict[str, Any]:
    """Train the same recipe on the same budget with unknown taken as negative, and return its test metrics."""
    log.info("once more, with unknown taken as negative")
    settings = replace(
        recipe.settings, compare_unknown_as_negative=False, unknown="negative", pseudo_labels=None, pseudo_args=None
    )
    training = copy.copy(recipe.training)
    training.output_dir = str(recipe.folder / UNKNOWN_AS_NEGATIVE)
    other = replace(recipe, settings=settings, training=training)
    checkpoint = last_checkpoint(other.folder) if recipe.resumes else None
    set_seed(training.seed)
    if settings.cache_features:
        counts = data.target_counts(settings)
        objective = loss_configuration(settings, counts, data.names)
        config = TimmMultiLabelConfig(**{**model.config.to_dict(), **objective, "decisions": None})
        rival = TimmMultiLabelForImageClassification(config, backbone=model.backbone)
        rival.freeze_backbone()
        rival.head.load_state_dict(start)
        targets = training_targets(data.images.of_split("train").labels, data.names, settings)
        sets = {**datasets, "train": FeatureDataset(datasets["train"].features, targets, settings.views)}
        start_head(rival, sets["train"], counts)
    else:
        rival, _, sets = prepare_training(other, data, checkpoint)
    trainer = make_trainer(other, rival, sets, data, checkpoint)
    if trainer.is_world_process_zero():
        _clear(other.folder, checkpoint)
    trainer.train(resume_from_checkpoint=checkpoint)
    if settings.lora_rank is not None:
        merge_lora(rival)
    _fit_rule(trainer, rival.config, sets, settings)
    metrics, _ = _test(trainer, rival.config, sets, settings)
    return metrics


def _save(
    recipe: Recipe,
    trainer: Trainer,
    processor: TimmMultiLabelImageProcessor,
    metrics: dict[str, Any],
) -> None:
    folder = recipe.folder
    with full_disk_told(folder):
        trainer.save_model(str(folder))
    processor.save_pretrained(folder)
    resolved = {**recipe.given, INFORMATION: library_versions()}
    (folder / RECIPE).write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
    entries = [{key: _or_none(value) for key, value in entry.items()} for entry in trainer.state.log_history]
    history = json.dumps(entries, indent=1)
    (folder / TRAINING_LOG).write_text(history + "\n", encoding="utf-8")
    (folder / METRICS).write_text(json.dumps(metrics, indent=1) + "\n", encoding="utf-8")  # last: it is done


def _or_none(value: Any) -> Any:  # noqa: ANN401 - whatever the Trainer logs
    """Return None for NaN and infinity, which JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
