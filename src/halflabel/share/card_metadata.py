"""The YAML at the top of a model's card: what the Hub reads, files and shows beside the model."""

from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCardData

from ..model.modeling_timm_multilabel import TAGS
from .card_record import RunRecord

MOST_LABELS = 100
"""So many labels are told one by one; all are in `metrics.json`."""

_SAMPLE = "street_scenes"
_PER_LABEL = (("average_precision", "AP"), ("roc_auc", "AUROC"))


def card_metadata(record: RunRecord) -> ModelCardData:
    """Return the metadata of a card.

    Of a value that is not known (licence, base model, data set) and a measure that is not defined there is no entry.
    """
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=record.recipe.get("license"),
        base_model=base_model(record),
        datasets=list(record.datasets) or None,
        tags=TAGS,
        metrics=["mAP", "average_precision", "roc_auc"] if record.is_measured else None,
        model_name=record.title,
        eval_results=_results(record) or None,
    )


def base_model(record: RunRecord) -> str | None:
    """Return the Hub repository that the backbone's weights came from; None where they came from elsewhere."""
    recipe = record.recipe
    changed = any(key.startswith(("pretrained", "checkpoint")) for key in recipe.get("backbone_args") or {})
    if recipe.get("weights") != "hub" or changed:
        return None
    found = timm.get_pretrained_cfg(recipe["backbone"])
    return found.hf_hub_id if found else None


def _results(record: RunRecord) -> list[EvalResult]:
    if not record.is_measured:
        return []
    metrics, titles = record.metrics, record.measured_sources
    alone = titles[0] if len(titles) == 1 else None
    on: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "Multi-label image classification",
        # The Hub wants a type; for data that it does not hold, people write "custom".
        "dataset_type": alone if alone == _SAMPLE or alone in record.datasets else "custom",
        "dataset_name": ", ".join(titles),
        "dataset_split": None if metrics["split"] == "all" else metrics["split"],
    }
    values = [("mAP", "mAP", metrics["mAP"]), ("mAUROC", "mAUROC", metrics["mAUROC"])]
    for label, row in list(metrics["labels"].items())[:MOST_LABELS]:
        values += [(kind, f"{measure} of {label}", row[measure]) for kind, measure in _PER_LABEL]
    return [
        EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **on)
        for kind, name, value in values
        if value is not None
    ]
