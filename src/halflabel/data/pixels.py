"""From annotated pictures to batches: decoding, what transforms draw, data sets and the collator."""

import contextlib
import logging
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import xxhash
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import ImageTransform, decode_image
from .files import sole_use
from .images import AnnotatedImages

log = logging.getLogger(__name__)
_DRAWING = threading.Lock()


def draw_seed(seed: int, turn: int, what: int | str) -> int:
    """Return the seed of the draws for one image, 32 bits.

    It follows from its arguments alone, so that the draws do not depend on the order, on the folder, on the split, or
    on how many processes draw.

    Args:
        seed: Of the run.
        turn: The epoch, or the number of the view.
        what: The image: its name or its place in the data set.
    """
    return xxhash.xxh32_intdigest(f"{seed}|{turn}|{what}".encode())


@contextlib.contextmanager
def drawing(seed: int) -> Iterator[None]:
    """Seed the generators that transforms draw from, one thread at a time, and put them back as they were."""
    with _DRAWING:
        before = random.getstate(), np.random.get_state(), torch.default_generator.get_state()  # noqa: NPY002
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which would reach for the accelerator too
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.default_generator.set_state(before[2])


def process_state() -> PartialState:
    """Return accelerate's state of this process.

    Processes that a launcher started on CPUs are told that they are on CPUs: without, accelerate takes each for the
    only one, and all would do the whole work.
    """
    return PartialState(cpu=not torch.accelerator.is_available())


@contextlib.contextmanager
def sole_run(folder: Path) -> Iterator[None]:
    """Keep an output folder for the processes of this run, as `files.sole_use` does for one; all are refused together.

    Raises:
        HalflabelError: If another run has it.
    """
    state, refused = process_state(), [""]
    with contextlib.ExitStack() as held:
        if state.is_main_process:
            try:
                held.enter_context(sole_use(folder))
            except (HalflabelError, OSError) as error:
                refused = [str(error)]
        if broadcast_object_list(refused)[0]:
            raise HalflabelError(refused[0])
        yield


def leave_out_unreadable(images: AnnotatedImages, quiet: bool = False) -> AnnotatedImages:
    """Decode every picture once, each process its share; return the readable ones, and the others as `skipped`."""
    state = process_state()
    rows = list(range(state.process_index, len(images), state.num_processes))
    found = zip(rows, inspect_pictures(images.select(rows), quiet), strict=True)
    mine = {row: picture["error"] for row, picture in found if "error" in picture}
    bad = dict(sorted(item for part in gather_object([mine]) for item in part.items()))
    for line in list(bad.values())[:20]:
        log.warning("left out: %s", line)
    if len(bad) > 20:
        log.warning("left out: %d more", len(bad) - 20)
    kept = images.select(i for i in range(len(images)) if i not in bad) if bad else images
    return replace(kept, skipped=(*images.skipped, *bad.values()))


def inspect_pictures(images: AnnotatedImages, quiet: bool = False) -> Iterator[dict[str, Any]]:
    """Decode every picture, a JPEG at an eighth of its size, which finds those that cannot be read.

    Args:
        images: The pictures.
        quiet: Show no progress bar.

    Yields:
        In the order of the images: `size` (width, height), `format` and `mode` as Pillow names them, or `error`.
    """
    rows = zip(images.dataset["image"], images.dataset["file_name"], strict=True)
    with ThreadPoolExecutor() as pool:  # Pillow decodes without holding Python's lock
        yield from tqdm(pool.map(_inspect, rows), total=len(images), desc="pictures", unit="image", disable=quiet)


def _inspect(row: tuple[Mapping[str, Any], str]) -> dict[str, Any]:
    record, name = row
    try:
        decode_image(record, name, shortest_side=1)
    except HalflabelError as error:
        return {"error": str(error)}
    content = record.get("bytes")
    with Image.open(BytesIO(content) if content is not None else record["path"]) as picture:
        return {"size": picture.size, "format": picture.format, "mode": picture.mode}


class Epoch:
    """The number of an epoch, which also the processes of a loader see that outlive one."""

    def __init__(self) -> None:
        """Begin at 0."""
        self._number = torch.zeros((), dtype=torch.int64).share_memory_()

    def set(self, number: int) -> None:
        """Set it."""
        self._number.fill_(number)

    def __int__(self) -> int:
        """Return it."""
        return int(self._number)


class PixelDataset(Dataset[dict[str, Any]]):
    """Pictures and labels for the Trainer: `pixel_values` (channels, height, width) and `labels` (num_labels,).

    What the transform draws for an image follows from a seed, the epoch and the image's place, so that neither the
    number of loading processes nor a break in the run changes it.
    """

    def __init__(
        self,
        images: AnnotatedImages,
        transform: ImageTransform,
        labels: NDArray[Any] | None = None,
        shortest_side: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Keep the pictures encoded; they are decoded and transformed when an item is asked for.

        Args:
            images: The pictures.
            transform: From an RGB picture to a tensor.
            labels: Of shape (n, num_labels), in the place of those of the images; None: those of the images.
            shortest_side: What the transform needs, see `decoding.decode_image`; None: pictures are decoded in full.
            seed: Of what the transform draws at random; None: it draws nothing, or as the caller has seeded it.
        """
        self.dataset = images.dataset
        self.labels = images.labels if labels is None else labels
        self.transform = transform
        self.shortest_side = shortest_side
        self.seed = seed
        self.pseudo_labels: dict[str, Any] | None = None  # how unknown labels were filled, where they were
        self._epoch = Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Draw as in an epoch, counted from 0."""
        self._epoch.set(epoch)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.dataset)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Decode and transform one picture."""
        row = self.dataset[position]
        picture = decode_image(row["image"], row["file_name"], self.shortest_side)
        if self.seed is None:
            pixels = self.transform(picture)
        else:
            with drawing(draw_seed(self.seed, int(self._epoch), position)):
                pixels = self.transform(picture)
        return {"pixel_values": pixels, "labels": self.labels[position]}


class Rows(Protocol):
    """Rows of features that lie on disk, each float32 of one shape."""

    def __len__(self) -> int:
        """Return the number of rows."""

    def __getitem__(self, row: int) -> Tensor:
        """Return one row."""

    def sample(self) -> Tensor:
        """Return all rows, or enough for their spread."""

    def gather(self, rows: NDArray[np.intp]) -> Tensor:
        """Return some rows."""

    def select(self, rows: NDArray[np.intp]) -> "Rows":
        """Return some rows, which stay on disk."""


class FeatureDataset(Dataset[dict[str, Any]]):
    """Backbone features and labels for the Trainer: `features` as the head consumes them, `labels` (num_labels,).

    Of several views of an image an epoch shows one, the next epoch the next: an epoch stays one pass over the images,
    a probe trained for as many steps is as good as with every view in every epoch, and nothing is drawn, so that a
    resumed run sees what one without a break would see.
    """

    def __init__(self, features: Tensor | Rows, labels: NDArray[Any], views: int = 1) -> None:
        """Hold features and labels.

        Args:
            features: Shape (n * views, width) or (n * views, positions, width); all views of an image in a row.
            labels: Shape (n, num_labels).
            views: How many there are of an image.

        Raises:
            HalflabelError: If the numbers of rows do not fit.
        """
        if len(features) != len(labels) * views:
            raise HalflabelError(f"{len(features)} rows of features do not fit {len(labels)} images in {views} view(s)")
        self.features = features
        self.labels = labels
        self.views = views
        self.pseudo_labels: dict[str, Any] | None = None  # how unknown labels were filled, where they were
        self._epoch = Epoch()

    def set_epoch(self, epoch: int) -> None:
        """Show the views of an epoch, counted from 0."""
        self._epoch.set(epoch)

    def sample(self) -> Tensor:
        """Return features for means and standard deviations: all in memory, of those on disk up to 256 MiB."""
        return self.features if isinstance(self.features, Tensor) else self.features.sample()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return one image's view of this epoch; a batch mixes views."""
        return {"features": self.features[int(self._row(position))], "labels": self.labels[position]}

    def batch(self, positions: NDArray[np.intp]) -> dict[str, Tensor]:
        """Return what `collate` makes of some images, at once."""
        labels = torch.from_numpy(self.labels[positions].astype(np.float32))
        return {"features": self._gather(self._row(positions)), "labels": labels}

    def plain(self, positions: NDArray[np.intp]) -> Tensor:
        """Return the features of some images as the evaluation transform shows them, whatever the epoch."""
        return self._gather(positions * self.views)

    def select(self, positions: NDArray[np.intp], labels: NDArray[Any]) -> "FeatureDataset":
        """Return some of the images, in all their views, with labels of their own."""
        rows = (positions[:, None] * self.views + np.arange(self.views)).ravel()
        features = self.features[rows] if isinstance(self.features, Tensor) else self.features.select(rows)
        return FeatureDataset(features, labels, self.views)

    def _gather(self, rows: NDArray[np.intp]) -> Tensor:
        return self.features[rows] if isinstance(self.features, Tensor) else self.features.gather(rows)

    def _row(self, position: Any) -> Any:  # noqa: ANN401 - one, or an array of them
        return position * self.views + (position + int(self._epoch)) % self.views


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Stack items to a batch; labels become float32 with `IGNORE_INDEX` for unknown.

    The default collator would keep integers, and an integer label makes other models guess a single-label problem.
    """
    batch = {key: torch.stack([item[key] for item in items]) for key in items[0] if key != "labels"}
    batch["labels"] = torch.from_numpy(np.stack([item["labels"] for item in items]).astype(np.float32))
    return batch
