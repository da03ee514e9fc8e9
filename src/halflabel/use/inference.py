"""A saved model, and its logits of an annotated data set."""

import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification, Trainer, TrainingArguments
from transformers.utils import CONFIG_NAME

from ..data.images import AnnotatedImages
from ..data.pixels import PixelDataset, collate
from ..metrics.entries import Floats
from ..model.errors import HalflabelError, did_you_mean, nearest_file, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .hub_errors import hub_reason

log = logging.getLogger(__name__)

ALL = "all"
"""What stands for the split where all images are measured."""


def load_model(name: str) -> tuple[TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor]:
    """Load a halflabel model and its image processor from a folder or from the Hub.

    From safetensors only, and no code that lies beside them is run.

    Raises:
        HalflabelError: If there is no such model, it is not one of halflabel, or its weights are not whole, do not fit
            its configuration or are not finite.
    """
    _check_place(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if config.model_type != TimmMultiLabelForImageClassification.config_class.model_type:
            raise HalflabelError(f"model {name!r} is a {config.model_type!r} model, not one of halflabel")
        model, found = AutoModelForImageClassification.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True
        )
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
    except HalflabelError:
        raise
    except Exception as error:  # of a damaged file transformers, safetensors and torch raise many kinds
        near = nearest_file(name).removeprefix("; ")
        folder = f"there is no such folder{f' ({near})' if near else ''}, and from the Hub: "
        where = "" if Path(name).is_dir() else folder
        raise HalflabelError(f"model {name!r} cannot be loaded: {where}{hub_reason(error)}") from error
    _check_weights(name, model, [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])])
    return model.eval(), processor


def _check_place(name: str) -> None:
    """Refuse a path that is no model's folder, of which transformers would speak as of a name on the Hub."""
    place = Path(name)
    reason = ""
    if os.path.isdir(name):  # noqa: PTH112 - which knows what to do with a name that is too long
        if not (place / CONFIG_NAME).is_file():
            reason = f"the folder holds no {CONFIG_NAME}: give the output folder of a finished run"
            inside = sorted(str(file.parent) for file in place.glob(f"*/{CONFIG_NAME}"))
            reason += f", like {shortlist(inside, 3)}" if inside else ""
    elif os.path.isfile(name):  # noqa: PTH113
        reason = "it is a file: give the folder of a model"
    elif place.is_absolute() or name.count("/") > 1 or name.startswith((".", "~")):  # the Hub has owner/name
        reason = f"there is no such folder{nearest_file(name)}"
    if reason:
        raise HalflabelError(f"model {name!r} cannot be loaded: {reason}")


def _check_weights(name: str, model: torch.nn.Module, absent: Sequence[str]) -> None:
    """Refuse a model that transformers would complete with random weights, or whose scores could be NaN."""
    if absent:
        shown = shortlist(sorted(absent), 3)
        raise HalflabelError(f"model {name!r}: its weights do not fit its config.json, which asks for {shown}")
    broken = [key for key, tensor in model.state_dict().items() if not tensor.isfinite().all()]
    if broken:
        raise HalflabelError(f"model {name!r}: {shortlist(broken, 3)} hold numbers that are not finite")


def predict_logits(model: TimmMultiLabelForImageClassification, dataset: Any, batch_size: int = 32) -> Floats:  # noqa: ANN401
    """Return the logits of a data set, shape (n, num_labels), computed by the Trainer's own prediction loop."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_eval_batch_size=batch_size,
            report_to="none",
            use_cpu=not torch.accelerator.is_available(),  # or processes do not share the work, see process_state
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
            "the data name no splits: all %d images are taken, also any that the model was trained on; for others give "
            "pictures of their own, or a column 'split'",
            len(chosen),
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
