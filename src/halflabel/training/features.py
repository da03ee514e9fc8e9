"""Backbone features: each picture goes through the frozen network once, and none again that did in an earlier run."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from torch import Tensor
from transformers import TrainerCallback

from ..data.pixels import PixelDataset
from ..model.errors import HalflabelError
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .extraction import run_backbone
from .feature_cache import FeatureFolder
from .feature_keys import backbone_parts, hash_parts
from .feature_shards import FeatureDataset, MappedRows
from .feature_views import Views
from .processes import process_state

log = logging.getLogger(__name__)

SHARD_ROWS = 1024
"""The most rows of a shard. What a killed run loses is the shard it was at."""

_SHARD_BYTES = 64 << 20
_SHARD_SECONDS = 60.0


def extract_features(
    model: TimmMultiLabelForImageClassification,
    dataset: PixelDataset,
    batch_size: int = 32,
    workers: int = 0,
    title: str = "features",
    quiet: bool = False,
) -> Tensor:
    """Return the features of all pictures, float32 on the CPU, in the order of the images; nothing is kept.

    Args:
        model: Put in evaluation mode; run on its own device.
        dataset: The pictures with the evaluation transform.
        batch_size: Pictures at once.
        workers: Processes that decode; 0: threads of this one.
        title: Shown at the progress bar.
        quiet: Show no progress bar.

    Returns:
        Shape (n, width), or (n, positions, width) where the head consumes positions.

    Raises:
        HalflabelError: If there are no pictures, or one cannot be read.
    """
    rows = range(len(dataset))
    if not rows:
        raise HalflabelError(f"{title}: there are no pictures")
    return torch.cat(list(run_backbone(model, Views(dataset), rows, batch_size, workers, title, quiet)))


def cached_features(
    model: TimmMultiLabelForImageClassification,
    views: Views,
    folder: str | Path | None,
    batch_size: int = 32,
    workers: int = 0,
    title: str = "features",
    quiet: bool = False,
) -> Tensor | MappedRows:
    """Return the features of all pictures in all views; only those that are not in the folder are computed.

    A row is found again by the backbone's weights and settings, what the head consumes, the device type, the picture,
    its transform and the library versions; order, split and labels do not matter, and a data set that grew costs its
    new pictures. Of several processes each computes a part. A run that is killed goes on where its last shard ended.

    Args:
        model: Its backbone must be frozen. Put in evaluation mode; run on its own device.
        views: The pictures.
        folder: Where features are kept, see `feature_cache.DEFAULT_FOLDER`; None: in memory only.
        batch_size: Pictures at once.
        workers: Processes that decode, see `extraction.run_backbone`.
        title: Shown at the progress bar and in the log.
        quiet: Show no progress bar.

    Returns:
        Row `image * views.views + view` holds one view of one image. Pooled features are a tensor of shape
        (rows, width); positions stay on disk unless `folder` is None and are read row by row.

    Raises:
        HalflabelError: If there are no pictures, one cannot be read, or the folder cannot be written to.
    """
    if not len(views):
        raise HalflabelError(f"{title}: there are no pictures")
    options = {"batch_size": batch_size, "workers": workers, "title": title, "quiet": quiet}
    if folder is None:
        return _in_memory(model, views, options)
    parts = backbone_parts(model)
    cache = FeatureFolder(folder, model.config.backbone, parts, hash_parts(parts))
    keys = views.keys()
    state = process_state()
    found = cache.find(keys)
    of = f"{len(keys)}" + (f" ({len(keys) // views.views} images in {views.views} views)" if views.views > 1 else "")
    log.info("%s: %d of %s are in %s", title, sum(key in found for key in keys), of, cache.path)
    # In the second round a process computes what it still misses, where machines do not share the folder.
    for processes, index in ((state.num_processes, state.process_index), (1, 0)):
        missing = _missing(keys, found, processes, index)
        if missing:
            _compute(cache, model, views, keys, missing, options)
        state.wait_for_everyone()
        if missing or processes > 1:
            found = cache.find(keys)
    if any(key not in found for key in keys):
        raise HalflabelError(f"features in {cache.path} were removed while they were computed; start again")
    rows = _arrange(keys, found)
    return rows.gather() if len(rows.shape) == 2 else rows


def _in_memory(model: TimmMultiLabelForImageClassification, views: Views, options: dict[str, Any]) -> Tensor:
    state = process_state()
    mine = np.array_split(np.arange(len(views)), state.num_processes)[state.process_index].tolist()
    part = [torch.cat(list(run_backbone(model, views, mine, **options)))] if mine else []
    return torch.cat(gather_object(part) if state.num_processes > 1 else part)


def _missing(keys: Sequence[bytes], found: Mapping[bytes, Any], processes: int, index: int) -> list[int]:
    """Return a row for each key that is not found and that falls to this process.

    The keys are hashes, so that they fall evenly; and the processes need not agree on what is missing.
    """
    rows = {key: row for row, key in enumerate(keys) if key not in found}
    return [row for key, row in rows.items() if int.from_bytes(key[:4], "big") % processes == index]


def _compute(
    cache: FeatureFolder,
    model: TimmMultiLabelForImageClassification,
    views: Views,
    keys: Sequence[bytes],
    rows: Sequence[int],
    options: dict[str, Any],
) -> None:
    """Compute rows and keep them, a shard at a time."""
    cache.prepare()  # before the work, so that a folder that cannot be written to is known at once
    done, start, parts, began = 0, 0, [], time.monotonic()
    for features in run_backbone(model, views, rows, **options):
        parts.append(features)
        done += len(features)
        limit = min(SHARD_ROWS, max(1, _SHARD_BYTES // features[0].nbytes))
        if done == len(rows) or done - start >= limit or time.monotonic() - began > _SHARD_SECONDS:
            cache.write([keys[row] for row in rows[start:done]], torch.cat(parts))
            start, parts, began = done, [], time.monotonic()


def _arrange(keys: Sequence[bytes], found: Mapping[bytes, tuple[Any, int]]) -> MappedRows:
    shards = list({id(shard): shard for shard, _ in found.values()}.values())
    numbers = {id(shard): number for number, shard in enumerate(shards)}
    where = np.array([(numbers[id(found[key][0])], found[key][1]) for key in keys], dtype=np.int64)
    return MappedRows(shards, where)


class ChangeViews(TrainerCallback):
    """Show another view of every image in each epoch; a resumed run goes on with the view of its epoch."""

    def __init__(self, dataset: FeatureDataset | PixelDataset) -> None:
        """Keep the training data set."""
        self.dataset = dataset

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Tell the data set the epoch; Accelerate tells it too, but not on several devices."""
        self.dataset.set_epoch(int((state.epoch or 0) + 1e-6))
