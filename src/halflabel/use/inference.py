"""A saved model opened from a folder or the Hub, and its logits of an annotated data set."""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import torch
from huggingface_hub import constants
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from torch import Tensor
from transformers import AutoConfig, AutoImageProcessor, Trainer, TrainingArguments
from transformers.utils import CONFIG_NAME

from ..data.files import check_model_place
from ..data.images import AnnotatedImages
from ..data.pixels import PixelDataset, collate
from ..metrics.entries import Floats
from ..model.decisions import check_logits
from ..model.errors import HalflabelError, did_you_mean, nearest_file, reason_of, shortlist
from ..model.image_processing_timm_multilabel import TimmMultiLabelImageProcessor
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification

log = logging.getLogger(__name__)

ALL = "all"
"""What stands for the split where all images are measured."""

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"
Name = str | os.PathLike[str]


@dataclass(frozen=True)
class SavedModel:
    """A model in evaluation mode, its image processor, and the folder or the Hub name that they were opened from."""

    model: TimmMultiLabelForImageClassification
    processor: TimmMultiLabelImageProcessor
    name: str = "the model"

    @property
    def folder(self) -> Path | None:
        """Where it lies; None for one that came from the Hub or from memory."""
        return Path(self.name) if Path(self.name, CONFIG_NAME).is_file() else None

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in the order of the logits."""
        return self.model.config.label_space.names


def open_model(
    model: Name | SavedModel,
    revision: str | None = None,
    *parts: Any,  # noqa: ANN401
) -> SavedModel:
    """Open a halflabel model and its image processor: from safetensors only, and no code that lies beside them is run.

    What is open already is returned as it is. Parts are backbone, head and loss as for `share.trained.load`.

    Raises:
        HalflabelError: If there is no such model, it is not one of halflabel, or its weights are not whole, do not fit
            its configuration or are not finite.
    """
    if isinstance(model, SavedModel):
        return model
    name, kind = str(model), TimmMultiLabelForImageClassification
    check_model_place(name)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False, revision=revision)
        if config.model_type != kind.config_class.model_type:
            raise HalflabelError(f"model {name!r} is a {config.model_type!r} model, not one of halflabel")
        network, found = kind.from_pretrained(
            name, *parts, revision=revision, output_loading_info=True, ignore_mismatched_sizes=True
        )
        processor = AutoImageProcessor.from_pretrained(name, trust_remote_code=False, revision=revision)
    except HalflabelError:
        raise
    except Exception as error:  # of a damaged file transformers, safetensors and torch raise many kinds
        near = nearest_file(name).removeprefix("; ")
        folder = f"there is no such folder{f' ({near})' if near else ''}, and from the Hub: "
        where = "" if Path(name).is_dir() else folder
        raise HalflabelError(f"model {name!r} cannot be loaded: {where}{hub_reason(error)}") from error
    # transformers completes a model with random weights, and takes those of which every score is NaN
    if absent := [*found["missing_keys"], *(key for key, *_ in found["mismatched_keys"])]:
        shown = shortlist(sorted(absent), 3)
        raise HalflabelError(f"model {name!r}: its weights do not fit its config.json, which asks for {shown}")
    if broken := [key for key, tensor in network.state_dict().items() if not tensor.isfinite().all()]:
        raise HalflabelError(f"model {name!r}: {shortlist(broken, 3)} hold numbers that are not finite")
    return SavedModel(network.eval(), processor, name)


def hub_reason(error: BaseException) -> str:
    """Return in one line why a call to the Hub failed, and what to do about it.

    The innermost of the errors that it was raised from is looked at first: transformers puts general advice around it.
    """
    causes = [error]
    while follows := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(follows)
    for cause in reversed(causes):
        if reason := _reason(cause):
            return reason
    if constants.HF_HUB_OFFLINE and any(isinstance(cause, LocalEntryNotFoundError) for cause in causes):
        return _reason(OfflineModeIsEnabled()) or ""
    return reason_of(error)


def _reason(error: BaseException) -> str | None:
    """Return the line for one error; None if it says nothing of its own."""
    match error:
        case OfflineModeIsEnabled():
            return "it is not in the cache, and HF_HUB_OFFLINE forbids to ask the Hub: unset it"
        case LocalTokenNotFoundError():
            return f"there is no token: {_LOG_IN}"
        case GatedRepoError():
            return f"access to it is gated: ask for it on its page at the Hub, then {_LOG_IN}"
        case RevisionNotFoundError():
            return "it has no such revision: give a branch, a tag or a commit of it"
        case RepositoryNotFoundError():
            return f"there is no such repository, or this token may not see it: check the name, and {_LOG_IN}"
        case EntryNotFoundError():
            return None
        case HfHubHTTPError():
            return _status_reason(error)
        case httpx2.TransportError():
            said = error or type(error).__name__
            return f"the Hub cannot be reached at {constants.ENDPOINT} ({said}); check the network"
    return None


def _status_reason(error: HfHubHTTPError) -> str:
    status, said = error.response.status_code, error.server_message or "no reason given"
    if status == 401:
        given = "authorization" in error.response.request.headers
        return f"{'the Hub does not accept the token' if given else 'the Hub asks for a token'}: {_LOG_IN}"
    if status == 403:
        return f"the token does not allow it ({said}): take a name of your own, or a token with write permission"
    return f"the Hub answers {status} ({said})" + ("; try again later" if status >= 500 else "")


def choose_split(
    saved: SavedModel, images: AnnotatedImages, split: str | None, every_label: bool = False
) -> tuple[AnnotatedImages, str]:
    """Return the images of a split with the model's labels, in its order, and which they are: the split, or `ALL`.

    All are taken for None, and, with a warning, where the data name no splits. A label that the data do not have is
    unknown for every image, and one that the model does not answer is left out; warnings name them.

    Raises:
        HalflabelError: If there is no image, or none of the labels; with `every_label` if one is missing.
    """
    present = images.label_space.names
    missing = [label for label in saved.label_names if label not in present]
    if missing:
        nearest = did_you_mean(missing[0], present)
        told = f"the data have no label {shortlist(map(repr, missing))}, which {saved.name} answers{nearest}"
        if every_label or len(missing) == len(saved.label_names):
            raise HalflabelError(told)
        log.warning("%s; it is unknown for every picture, and the other labels are measured", told)
    if others := [label for label in present if label not in saved.label_names]:
        log.warning(
            "the data also have %s, which %s does not answer: left out", shortlist(map(repr, others)), saved.name
        )
    chosen = images.with_unknown(missing).with_only(saved.label_names)
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


def _without_labels(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Put pictures together, as `collate` does; of labels the Trainer would compute a loss that nobody asks for."""
    batch = collate(items)
    del batch["labels"]
    return batch


def predict_logits(
    saved: SavedModel, images: AnnotatedImages, batch_size: int = 32, fast_decode: bool = True
) -> Floats:
    """Return the logits of n images, shape (n, num_labels), by the Trainer's own prediction loop; see `evaluate`.

    Raises:
        HalflabelError: If one is not finite.
    """
    side = saved.processor.needed_side() if fast_decode else None
    dataset = PixelDataset(images, saved.processor.eval_transform(), shortest_side=side)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, per_device_eval_batch_size=batch_size, report_to="none", remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
            use_cpu=not torch.accelerator.is_available(),  # or processes do not share the work, see process_state
        )  # fmt: skip
        trainer = Trainer(model=saved.model, args=arguments, data_collator=_without_labels)
        logits = np.asarray(trainer.predict(dataset).predictions, dtype=np.float64)
    check_logits(logits, saved.label_names, images.column("file_name").tolist())
    return logits
