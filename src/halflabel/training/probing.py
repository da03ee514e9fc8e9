"""A head that is fitted on features of the untouched backbone, before or instead of training the backbone."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import set_seed

from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe, parse_recipe
from .building import build_model, choose_trained, lay_out, make_trainer
from .preparation import TrainingData, make_datasets, start_head
from .resuming import last_checkpoint
from .self_training import add_pseudo_labels

log = logging.getLogger(__name__)

PROBE = "probe"
"""The folder in the output folder in which the head is fitted; a run that is killed goes on from it."""

_NO_TRANSFER: dict[str, Any] = {
    "freeze": None, "layer_decay": 1.0, "head_lr_multiplier": 1.0, "ema_decay": None,
    "lora_rank": None, "lora_alpha": None, "lora_targets": None, "probe_first": None, "early_stopping_patience": None,
    "pseudo_labels": None, "pseudo_args": None,
}  # fmt: skip
_OF_THE_RUN = ("seed", "data_seed", "use_cpu", "disable_tqdm", "logging_strategy", "dataloader_num_workers",
               "per_device_eval_batch_size")  # fmt: skip


def prepare_training(
    recipe: Recipe, data: TrainingData, checkpoint: str | None = None
) -> tuple[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor, dict[str, Any]]:
    """Return the model as training finds it, its image processor, and the data set of each split.

    The head starts from what is known of each label; or, where the recipe says `probe_first`, from a probe's solution.
    Where it says `pseudo_labels`, unknown training entries have got theirs.

    Args:
        recipe: The recipe.
        data: What it trains on.
        checkpoint: Where training goes on from; the head then comes from there, and no probe is needed.

    Raises:
        HalflabelError: On any fault of the recipe that only the model or the data show.
    """
    settings = recipe.settings
    model, processor = build_model(settings, data)
    if settings.probe_first is not None and checkpoint is None:
        _fit_head(recipe, settings.probe_first, model, processor, data)
    choose_trained(model, settings)
    lay_out(model, recipe)
    datasets = make_datasets(recipe, model, processor, data)
    datasets["train"].pseudo_labels = add_pseudo_labels(recipe, model, processor, data, datasets)
    if settings.probe_first is None:
        start_head(model, datasets["train"], data.target_counts(settings))
    return model, processor, datasets


def _fit_head(
    recipe: Recipe,
    name: str,
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    data: TrainingData,
) -> None:
    """Train the head on cached features of the backbone as it is; see LP-FT (Kumar et al. 2022, arXiv 2202.10054)."""
    log.info("first the head alone, as %s trains it", name)
    folder = recipe.folder / PROBE
    probe = _probe_recipe(recipe, name, folder)
    model.freeze_backbone()
    datasets = make_datasets(probe, model, processor, data)
    start_head(model, datasets["train"], data.target_counts(probe.settings))
    trainer = make_trainer(probe, model, datasets, data)
    checkpoint = last_checkpoint(folder) if recipe.resumes else None
    if checkpoint is None and trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)  # an earlier run was stopped here
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.accelerator.wait_for_everyone()
    set_seed(recipe.training.seed)  # what is drawn from here on is the same when the probe was done before a break
    model.unfreeze_backbone()


def _probe_recipe(recipe: Recipe, name: str, folder: Path) -> Recipe:
    """Return a recipe that trains as the named one does, with this one's data, model, seed and device."""
    run = {key: getattr(recipe.training, key) for key in _OF_THE_RUN}
    flags = [f"--{key}={getattr(value, 'value', value)}" for key, value in run.items() if value is not None]
    probe = parse_recipe(name, [f"--output_dir={folder}", "--report_to=none", *flags])
    if not probe.settings.cache_features or probe.settings.head != recipe.settings.head:
        raise HalflabelError(
            f"probe_first: {name!r} must be a recipe with cache_features: true and head: {recipe.settings.head}"
        )
    settings = replace(
        recipe.settings, **_NO_TRANSFER, freeze_backbone=True, cache_features=True, views=probe.settings.views
    )
    return replace(probe, settings=settings)
