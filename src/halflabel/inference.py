"""A saved model, and its logits of an annotated data set."""

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments

from .data import PixelDataset, collate
from .errors import HalflabelError, did_you_mean
from .hub_errors import hub_reason
from .image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from .metrics import Floats
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .sources import AnnotatedImages

log = logging.getLogger(__name__)

ALL = "all"
"""What stands for the split where all images are measured."""


def load_model(name: str) -> tuple[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor]:
    """Load a halflabel model and its image processor from a folder or from the Hub; safetensors only.

    Raises:
        HalflabelError: If there is no such model, or it is not one of halflabel.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        if config.model_type != TimmMultiLabelForImageClassification.config_class.model_type:
            raise HalflabelError(f"model {name!r} is a {config.model_type!r} model, not one of halflabel")
        model = AutoModelForImageClassification.from_pretrained(name)
        processor = AutoImageProcessor.from_pretrained(name)
    except HalflabelError:
        raise
    except (OSError, ValueError) as error:
        where = "" if Path(name).is_dir() else "there is no such folder, and from the Hub: "
        raise HalflabelError(f"model {name!r} cannot be loaded: {where}{hub_reason(error)}") from error
    return model.eval(), processor


def predict_logits(model: TimmMultiLabelForImageClassification, dataset: Any, batch_size: int = 32) -> Floats:  # noqa: ANN401
    """Return the logits of a data set, shape (n, num_labels), computed by the Trainer's own prediction loop."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        trainer = Trainer(model=model, args=arguments, data_collator=collate)
        return np.asarray(trainer.predict(dataset).predictions, dtype=np.float64)


def choose_split(
    name: str, model: TimmMultiLabelForImageClassification, images: AnnotatedImages, split: str | None
) -> tuple[AnnotatedImages, str]:
    """Return the images of a split with the model's labels, in its order, and which they are: the split, or `ALL`.

    All are taken for None, and, with a warning, where the data name no splits.

    Raises:
        HalflabelError: If there is none, or a label is missing.
    """
    names = model.config.label_space.names
    missing = [label for label in names if label not in images.label_space.names]
    if missing:
        nearest = did_you_mean(missing[0], images.label_space.names)
        raise HalflabelError(f"the data have no label {missing[0]!r}, which {name} answers{nearest}")
    chosen = images.with_only(names)
    if split and not (chosen.column("split") != "").any():
        log.warning(
            "the data name no splits: all %d images are taken, also any that the model was trained on", len(chosen)
        )
        split = None
    chosen = chosen.of_split(split) if split else chosen
    if not len(chosen):
        raise HalflabelError(f"the data have no image{f' in split {split!r}' if split else ''}")
    return chosen, split or ALL


def split_logits(
    model: TimmMultiLabelForImageClassification,
    processor: TimmMultiLabelImageProcessor,
    images: AnnotatedImages,
    batch_size: int,
    fast_decode: bool,
) -> Floats:
    """Return the logits of images as the model's processor prepares them; see `evaluation.evaluate_model`."""
    side = processor.needed_side() if fast_decode else None
    return predict_logits(model, PixelDataset(images, processor.eval_transform(), shortest_side=side), batch_size)
