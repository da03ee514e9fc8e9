"""A recipe's run: data, model, Trainer, test, and the output folder."""

import json
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from transformers import Trainer, set_seed

from ..data.pixels import sole_run
from ..decide.decision_fitting import fit_decisions
from ..decide.report import decision_notes, measure_rule
from ..metrics.report import json_ready
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor as Processor
from ..model.labels import evaluation_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from .checkpoints import (
    TRAINED_ON,
    UNFINISHED,
    check_network,
    check_same_run,
    checkpoints_in,
    disk_faults_told,
    find_fault,
    last_checkpoint,
    later_checkpoints,
    read_json,
    write_in_order,
)
from .folds import add_pseudo_labels, out_of_fold_logits
from .keys import INFORMATION, LIBRARIES, TrainingKeys
from .preparation import (
    SKIPPED,
    TrainingData,
    check_targets,
    count_skipped,
    describe_run,
    make_datasets,
    prepare_data,
    report_labels,
    start_head,
)
from .recipe import Recipe, parse_recipe
from .trainer import MultiLabelTrainer, make_trainer
from .transfer import build_model, choose_trained, merge_lora

log = logging.getLogger(__name__)

METRICS, RECIPE, TRAINING_LOG, PLOTS = "metrics.json", "recipe.yaml", "training_log.json", "plots"
"""What lies in the output folder: what was measured, the resolved recipe, what the Trainer logged (losses, rates, and
the measures on validation), and the folder of pictures."""

FIGURES = ("average_precision", "coverage", "learning_curve", "precision_recall", "reliability")
"""The names of the pictures in that folder."""

PROBE = "probe"
"""The folder in the output folder in which the head is fitted; a run that is killed goes on from it."""

UNKNOWN_AS_NEGATIVE = "unknown_as_negative"
"""The folder in the output folder for the run that it is compared with; removed at the end."""

_FRESH = (None, False, "false", "False")  # of resume_from_checkpoint
_OF_THE_RUN = ("seed", "data_seed", "use_cpu", "disable_tqdm", "logging_strategy", "dataloader_num_workers",
               "per_device_eval_batch_size")  # fmt: skip


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
        kept: The epoch whose weights were kept, and how many there were; None without validation.
    """

    recipe: Recipe
    model: Model
    processor: Processor
    data: TrainingData
    test_labels: NDArray[Any] | None
    test_logits: NDArray[Any] | None
    metrics: dict[str, Any]
    log_history: list[dict[str, Any]]
    kept: tuple[float, float] | None


def run_recipe(recipe: Recipe, present: Callable[[Trained], Any] = lambda trained: None) -> dict[str, Any]:
    """Run a recipe from data to the saved, tested model. A run that goes on and is finished already is left as it is.

    Args:
        recipe: Nothing is pushed, whatever it says.
        present: Called by the main process when everything is saved, before what the run could go on from is removed.

    Returns:
        The content of `metrics.json`.

    Raises:
        HalflabelError: On any fault of the recipe or of the data, before training starts; and if another process runs
            in the output folder.
    """
    with sole_run(recipe.folder):
        return _run(recipe, present)


def _run(recipe: Recipe, present: Callable[[Trained], Any]) -> dict[str, Any]:
    folder = recipe.folder
    workers, cores = recipe.arguments.dataloader_num_workers, os.cpu_count() or 1
    if workers > cores:
        log.warning("dataloader_num_workers: %d processes would share %d cores; give at most %d", workers, cores, cores)
    recipe.check_installed()
    checkpoint = _checkpoint(recipe, folder)
    data = prepare_data(recipe)
    trained_on = describe_run(recipe, data)
    if _is_finished(recipe, checkpoint, trained_on):
        log.warning("%s holds a finished run: nothing to go on with", folder)
        return read_json(folder / METRICS)
    if checkpoint is not None:
        check_same_run(Path(checkpoint), trained_on)
    if (folder / METRICS).is_file():
        log.warning("%s holds a finished run, which this one replaces; another --output_dir would keep it", folder)
    report_labels(data.counts, data.names, recipe.data.strict)
    check_targets(data.target_counts(recipe), recipe.model.loss)
    set_seed(recipe.arguments.seed)
    model, processor, datasets = prepare_training(recipe, data, checkpoint)
    if checkpoint is not None:
        check_network(Path(checkpoint), model)
    trainer = make_trainer(recipe, model, datasets, data)
    trainer.trained_on = trained_on
    if trainer.is_world_process_zero():
        _clear(folder, checkpoint)
        if data.images.skipped:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / SKIPPED).write_text("\n".join(data.images.skipped) + "\n", encoding="utf-8")
    with recipe.argument_faults_told(lambda: trainer.has_stepped):
        trainer.train(resume_from_checkpoint=checkpoint)
    if recipe.training.lora_rank is not None:
        merge_lora(model)
    _fit_rule(trainer, model, datasets, recipe, data)
    metrics, logits = _test(trainer, model, datasets, recipe, data)
    if recipe.training.pseudo_labels is not None:
        metrics["pseudo_labels"] = datasets["train"].pseudo_labels
    if recipe.data.bad_images == "skip":
        metrics["skipped_images"] = count_skipped(folder / SKIPPED)
    if trainer.is_world_process_zero():
        _save(recipe, trainer, processor, metrics)
        test_labels = None if logits is None else datasets["test"].labels
        history, kept = trainer.state.log_history, _kept_epoch(trainer)
        present(Trained(recipe, model, processor, data, test_labels, logits, metrics, history, kept))
        _tidy(recipe, trainer)
    trainer.accelerator.wait_for_everyone()
    return metrics


def _is_finished(recipe: Recipe, checkpoint: str | None, trained_on: dict[str, Any]) -> bool:
    """Tell whether a run that is to go on is at its end: it goes on from the last step, and is to be no longer.

    Raises:
        HalflabelError: If it was trained on something else, or is to be longer and its checkpoints are gone.
    """
    folder, asked = recipe.folder, recipe.arguments.resume_from_checkpoint
    if asked in _FRESH or not (folder / METRICS).is_file():
        return False
    before = read_json(folder / TRAINED_ON) if (folder / TRAINED_ON).is_file() else None
    if before is None:  # an older version's
        return recipe.resumes
    if not recipe.resumes and Path(asked).resolve() != (folder / f"checkpoint-{before['steps']}").resolve():
        return False
    check_same_run(folder, trained_on)
    longer = any(trained_on["length"][key] > value for key, value in before["length"].items())
    if longer and checkpoint is None:
        raise HalflabelError(
            f"{folder} holds a finished run without checkpoints, which cannot be trained for longer: give another "
            "--output_dir; --save_total_limit keeps checkpoints"
        )
    return not longer


def _checkpoint(recipe: Recipe, folder: Path) -> str | None:
    """Return the checkpoint to go on from, or None for a fresh start."""
    asked, finished = recipe.arguments.resume_from_checkpoint, (folder / METRICS).is_file()
    if not recipe.resumes:
        path = None if asked in _FRESH else Path(asked)
        fault = path and (find_fault(path) if path.is_dir() else "no such folder")
        if fault:
            raise HalflabelError(f"resume_from_checkpoint {asked!r}: {fault}")
        inside = path is not None and path.resolve().parent == folder.resolve()
        if checkpoints_in(folder) and not finished and not inside:
            raise HalflabelError(
                f"{folder} holds an unfinished run: add --resume_from_checkpoint to go on with it, "
                "or give another --output_dir"
            )
        return None if path is None else str(path)
    last = last_checkpoint(folder)
    if last is None and not finished:  # it was stopped early: whoever starts it again need not know how early
        log.warning("%s holds no checkpoint yet: starting from the beginning", folder)
    return last


def _clear(folder: Path, checkpoint: str | None) -> None:
    """Remove what an earlier run left, so that it cannot be taken for this run's.

    A run that goes on leaves what is damaged behind, or the Trainer would count it among those it may keep; and what
    comes after the checkpoint that it goes on from, for it writes that anew.
    """
    goes_on = checkpoint is not None and Path(checkpoint).resolve().parent == folder.resolve()
    left = checkpoints_in(folder)
    if goes_on:
        later = later_checkpoints(folder, Path(str(checkpoint)))
        left = [path for path in left if path in later or find_fault(path)]
    for old in (folder / UNFINISHED, *left):
        shutil.rmtree(old, ignore_errors=True)
    (folder / METRICS).unlink(missing_ok=True)
    if not goes_on:
        (folder / SKIPPED).unlink(missing_ok=True)
        for name in (PLOTS, UNKNOWN_AS_NEGATIVE):
            shutil.rmtree(folder / name, ignore_errors=True)


def _tidy(recipe: Recipe, trainer: Trainer) -> None:
    """Remove, now that nothing is left to do, what a run goes on from that is killed before.

    Checkpoints stay where `save_total_limit` was asked for; of one, the best.
    """
    folder = recipe.folder
    shutil.rmtree(folder / PROBE, ignore_errors=True)
    best = folder / Path(trainer.state.best_model_checkpoint or "none").name
    asked = "save_total_limit" in recipe.said
    for path in checkpoints_in(folder):
        if not asked or (trainer.args.save_total_limit == 1 and best.is_dir() and path != best):
            shutil.rmtree(path)


def _kept_epoch(trainer: Trainer) -> tuple[float, float] | None:
    state = trainer.state
    best = next((one for one in state.log_history if one.get("step") == state.best_global_step), None)
    kept = trainer.args.load_best_model_at_end and state.best_model_checkpoint
    return None if best is None or not kept else (best["epoch"], round(state.epoch or 0, 2))


def _fit_rule(trainer: Trainer, model: Model, datasets: dict[str, Any], recipe: Recipe, data: TrainingData) -> None:
    """Fit calibration and thresholds on held-out entries, and store them in the model's configuration."""
    keys = recipe.decisions
    if keys.decide is None:
        return
    logits, labels = _held_out(trainer, model, datasets, recipe, data)
    if logits is None or not (labels == 1).any() or not (labels == 0).any():
        log.warning("decide: no held-out yes and no to fit thresholds on, so yes is a score of at least 0.5")
        return
    rule = fit_decisions(logits, labels, keys.decide, keys.calibration)
    model.config.decisions = rule.to_dict()
    if trainer.is_world_process_zero():
        for note in decision_notes(rule, model.config.label_space.names):
            log.warning("%s", note)


def _held_out(
    trainer: Trainer, model: Model, datasets: dict[str, Any], recipe: Recipe, data: TrainingData
) -> tuple[Any, Any]:
    """Return the logits and labels of the validation split, or else those of the training pictures, out of fold."""
    if trainer.eval_dataset is not None:
        return np.asarray(trainer.predict(datasets["validation"]).predictions), datasets["validation"].labels
    logits = None
    if recipe.training.cache_features:
        logits = out_of_fold_logits(recipe, model, data, datasets["train"])
    return logits, evaluation_labels(data.images.of_split("train").labels)


def _test(
    trainer: Trainer, model: Model, datasets: dict[str, Any], recipe: Recipe, data: TrainingData
) -> tuple[dict[str, Any], Any]:
    """Touch the test split, once, at the end; return its measures and its logits."""
    if "test" not in datasets:
        log.warning("there is no test split: metrics.json holds no result")
        return {"split": None}, None
    logits, rule = np.asarray(trainer.predict(datasets["test"]).predictions), model.config.decision_rule
    labels, groups = datasets["test"].labels, data.images.of_split("test").groups
    return {"split": "test", **measure_rule(rule, logits, labels, data.names, recipe.decisions.ci, groups)}, logits


def _save(recipe: Recipe, trainer: MultiLabelTrainer, processor: Processor, metrics: dict[str, Any]) -> None:
    folder, trained_on = recipe.folder, trainer.trained_on or {}
    with disk_faults_told(folder):
        trainer.save_model(str(folder))
    processor.save_pretrained(folder)
    resolved = {**recipe.plain(), INFORMATION: {name: version(name) for name in LIBRARIES}}
    files = {
        RECIPE: yaml.safe_dump(resolved, sort_keys=False),
        TRAINING_LOG: json.dumps(json_ready(trainer.state.log_history), indent=1) + "\n",
        TRAINED_ON: json.dumps({**trained_on, "steps": trainer.state.global_step}) + "\n",
        METRICS: json.dumps(metrics, indent=1) + "\n",
    }
    write_in_order(folder, files)


def prepare_training(
    recipe: Recipe, data: TrainingData, checkpoint: str | None = None
) -> tuple[Model, Processor, dict[str, Any]]:
    """Return the model as training finds it, its image processor, and the data set of each split.

    The head starts from what is known of each label; or, where the recipe says `probe_first`, from a probe's solution.
    Where it says `pseudo_labels`, unknown training entries have got theirs. Where training goes on from a checkpoint,
    the head comes from there, and no probe is needed.

    Raises:
        HalflabelError: On any fault of the recipe that only the model or the data show.
    """
    probe = recipe.training.probe_first
    model, processor = build_model(recipe, data)
    if probe is not None and checkpoint is None:
        _fit_head(recipe, probe, model, processor, data)
    choose_trained(model, recipe.training)
    arguments = recipe.arguments  # the memory layout in which convolutions are faster
    if recipe.training.channels_last and (arguments.device.type == "cpu" or arguments.bf16 or arguments.fp16):
        torch.nn.Module.to(model, memory_format=torch.channels_last)
    datasets = make_datasets(recipe, model, processor, data)
    datasets["train"].pseudo_labels = add_pseudo_labels(recipe, model, processor, data, datasets["train"])
    if probe is None:
        start_head(model, datasets["train"], data.target_counts(recipe))
    return model, processor, datasets


def _fit_head(recipe: Recipe, name: str, model: Model, processor: Processor, data: TrainingData) -> None:
    """Train the head on cached features of the backbone as it is; see LP-FT (Kumar et al. 2022, arXiv 2202.10054)."""
    log.info("first the head alone, as %s trains it", name)
    folder = recipe.folder / PROBE
    probe = _probe_recipe(recipe, name, folder)
    model.freeze_backbone()
    datasets = make_datasets(probe, model, processor, data)
    start_head(model, datasets["train"], data.target_counts(probe))
    trained_on = describe_run(probe, data)
    trainer = make_trainer(probe, model, datasets, data)
    trainer.trained_on = trained_on
    checkpoint = last_checkpoint(folder) if recipe.resumes else None
    if checkpoint is not None:
        check_same_run(Path(checkpoint), trained_on)
    if checkpoint is None and trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run was stopped here
    with probe.argument_faults_told(lambda: trainer.has_stepped):
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.wait_for_everyone()
    set_seed(recipe.arguments.seed)  # what is drawn from here on is the same when the probe was done before a break
    model.unfreeze_backbone()


def _probe_recipe(recipe: Recipe, name: str, folder: Path) -> Recipe:
    """Return a recipe that trains as the named one does, with this one's data, model, seed and device."""
    run = {key: getattr(recipe.arguments, key) for key in _OF_THE_RUN}
    same = {key: getattr(value, "value", value) for key, value in run.items() if value is not None}
    probe = parse_recipe(name, {"output_dir": str(folder), "report_to": "none", **same})
    if not probe.training.cache_features or probe.model.head != recipe.model.head:
        raise HalflabelError(
            f"probe_first: {name!r} must be a recipe with cache_features: true and head: {recipe.model.head}"
        )
    training = TrainingKeys(
        freeze_backbone=True, cache_features=True, views=probe.training.views, head_ridge=probe.training.head_ridge,
        feature_cache=recipe.training.feature_cache, channels_last=recipe.training.channels_last,
        train_transform=recipe.training.train_transform, log_epochs=recipe.training.log_epochs,
    )  # fmt: skip
    return replace(probe, data=recipe.data, model=recipe.model, decisions=recipe.decisions, training=training)
