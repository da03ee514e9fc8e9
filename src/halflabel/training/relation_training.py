"""Relations between labels at the end of a training run, stored in the model's configuration."""

import logging
from typing import Any

import numpy as np
from transformers import Trainer

from ..decide.relation_fitting import calibrate_logits, fit_relations, relation_notes
from ..model.labels import count_labels, evaluation_labels
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .arguments import Recipe
from .cross_fitting import cross_fitted_logits
from .preparation import TrainingData

log = logging.getLogger(__name__)


def store_relations(
    recipe: Recipe,
    trainer: Trainer,
    model: TimmMultiLabelForImageClassification,
    datasets: dict[str, Any],
    data: TrainingData,
) -> None:
    """Fit which labels go together and store it: `relations: true` of a recipe.

    On cached features the training entries are used, with logits of heads that were not trained on them; else the known
    entries of the validation split, which are fewer. Where neither knows both a yes and a no, a warning says so.
    """
    logits = cross_fitted_logits(recipe, model, datasets, data)
    if logits is not None:
        labels = evaluation_labels(data.images.of_split("train").labels)
    elif "validation" in datasets:
        logits = np.asarray(trainer.predict(datasets["validation"]).predictions)
        labels = datasets["validation"].labels
    else:
        log.warning("relations: no validation split to fit them on, so there are none")
        return
    counts = count_labels(labels)
    if not counts.positive.any() or not counts.negative.any():
        log.warning("relations: no known yes and known no to fit them on, so there are none")
        return
    relations = fit_relations(calibrate_logits(logits, labels), labels)
    model.config.relations = relations.to_dict()
    if trainer.is_world_process_zero():
        for line in relation_notes(relations, data.names) or ["no labels were found to go together"]:
            log.info("%s", line)
