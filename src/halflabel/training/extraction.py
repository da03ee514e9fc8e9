"""Pictures through the backbone as fast as the machine allows; see `network_threads`."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .feature_views import Views
from .network_threads import Network, batch_limit, count_threads, run_in_threads


class _Batches(Dataset[Tensor]):
    """The pixels of rows, a batch an item."""

    def __init__(self, views: Views, rows: Sequence[int], size: int) -> None:
        self.views = views
        self.batches = [rows[start : start + size] for start in range(0, len(rows), size)]

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: int) -> Tensor:
        return self.views.load(self.batches[number])


def run_backbone(
    model: TimmMultiLabelForImageClassification,
    views: Views,
    rows: Sequence[int],
    batch_size: int = 32,
    workers: int = 0,
    title: str = "features",
    quiet: bool = False,
) -> Iterator[Tensor]:
    """Yield the features of rows in their order, a batch at a time: float32 on the CPU, shape (batch, ...).

    Args:
        model: Put in evaluation mode; run on its own device, in its own precision.
        views: The pictures.
        rows: Which of them, at least one.
        batch_size: Pictures at once; on the CPU no more than 4 in each thread, which is faster there.
        workers: Processes that decode and transform in the place of the threads; worth their start where random
            transforms, of which threads make one at a time, are slower than the network.
        title: Shown at the progress bar.
        quiet: Show no progress bar.

    Raises:
        HalflabelError: If a picture cannot be read.
    """
    model.train(False)
    size = min(batch_limit(model.device, batch_size), math.ceil(len(rows) / count_threads(model.device)))
    batches = _Batches(views, rows, size)
    network = Network(model, views.load(rows[:2]), lambda run, pixels: run.extract_features(pixels))
    source: Iterable[Any] = range(len(batches))
    if workers:
        # With a generator of its own the loader draws nothing from the one that training draws from.
        source = DataLoader(batches, batch_size=None, num_workers=workers, generator=torch.Generator())
    call = network if workers else lambda number: network(batches[number])
    with tqdm(total=len(rows), desc=title, unit="image", disable=quiet) as progress:
        for features in run_in_threads(call, source, model.device):
            yield features
            progress.update(len(features))
