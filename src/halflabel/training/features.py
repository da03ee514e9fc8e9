"""Pictures through the backbone: as fast as the machine allows, each once, and none again that went in an earlier run.

A network that only infers runs in threads, decoding and arithmetic side by side. On the CPU each thread has a core of
its own: a network that runs on all cores at once waits for the slowest of them at every layer. On an accelerator the
threads take turns at it, and while one has its turn the others decode, transfer and fetch.
"""

import contextlib
import ctypes
import logging
import math
import os
import platform
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from ..data.pixels import PixelDataset, draw_seed, drawing
from ..data.pixels import process_state as process_state
from ..model.errors import HalflabelError
from ..model.image_processing_timm_multilabel import decode_image
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from .cache import FeatureFolder, MappedRows, backbone_parts, row_keys

log = logging.getLogger(__name__)

SHARD_ROWS = 1024
"""The most rows of a shard. What a killed run loses is the shard it was at."""

_SHARD_BYTES, _SHARD_SECONDS = 64 << 20, 60.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # constants of glibc's malloc.h
_MOST_THREADS = 16  # beyond, they mostly wait for Python's lock
_CPU_BATCH = 4  # on a core: activations of more leave its cache, and its share of memory that is kept for reuse

Item = TypeVar("Item")
Made = TypeVar("Made")


def keep_freed_memory() -> bool:
    """Ask glibc not to return freed tensors to the kernel, which would fault every page in again at the next step.

    The command line calls this for its own process; importing the package does not. Set `HALFLABEL_KEEP_MEMORY=0`
    to switch it off.

    Returns:
        Whether it was set; False off Linux, without glibc, and where it is switched off.
    """
    if os.environ.get("HALFLABEL_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    size = ctypes.c_int(1 << 30)
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, size)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, size))


def count_threads(device: torch.device) -> int:
    """Return how many threads `run_in_threads` starts."""
    if device.type == "cpu":
        return min(_MOST_THREADS, torch.get_num_threads())
    sharing = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun says how many processes share this machine
    return min(_MOST_THREADS, max(2, (os.cpu_count() or 1) // sharing))


def batch_limit(device: torch.device, batch_size: int) -> int:
    """Return how many pictures a thread takes at once where `batch_size` are allowed: on the CPU no more than 4."""
    return min(batch_size, _CPU_BATCH) if device.type == "cpu" else batch_size


class Network:
    """A model in evaluation mode that several threads may call."""

    def __init__(self, model: Model, run: Callable[[Model, Tensor], Tensor]) -> None:
        """Take the model.

        Args:
            model: In evaluation mode, on its device and in its precision.
            run: What is computed: a function of the model and pixels of shape (batch, channels, height, width).
        """
        self.model, self.device, self.dtype, self.run = model, model.device, model.dtype, run
        self.turn = threading.Semaphore(_MOST_THREADS if self.device.type == "cpu" else 1)

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return what the network makes of a batch of pixels, float32 on the CPU."""
        # channels_last is the faster layout of convolutions on the CPU and on recent GPUs
        pixels = pixels.to(memory_format=torch.channels_last)
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            # From pinned memory a copy runs beside the network; other accelerators may not be used by two threads.
            pixels = pixels.pin_memory().to(self.device, non_blocking=True)
        with self.turn:  # on an accelerator the activations of one batch at a time
            made = self.run(self.model, pixels.to(self.device, self.dtype)).float()
            made = made if on_cuda else made.cpu()
        return made.cpu()


def run_in_threads(call: Callable[[Item], Made], source: Iterable[Item], device: torch.device) -> Iterator[Made]:
    """Yield what `call` makes of each item, in order, with at most two items a thread under way.

    Args:
        call: Decodes and runs a `Network`.
        source: Items, like the numbers of batches.
        device: The network's.
    """
    cores, threads = torch.get_num_threads(), count_threads(device)
    share = max(1, cores // threads)
    pool = ThreadPoolExecutor(threads, initializer=_start_thread, initargs=(device, share))
    waiting: deque[Future[Made]] = deque()
    try:
        for item in source:
            waiting.append(pool.submit(call, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # the threads have set it for every thread that starts later, too


def _start_thread(device: torch.device, cores: int) -> None:
    torch.set_num_threads(cores)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # every thread starts at the first one, and would pin memory for that


class Views(Dataset[Tensor]):
    """Pictures in one or several views: view 0 by the evaluation transform, the others by the training transform.

    What a view draws at random follows from a seed, the view's number and the picture's name, so that it is the same
    in every run, whatever the order and the number of workers. View 0 is part of every number of views, so that
    features of fewer views are of use to a run with more.
    """

    def __init__(
        self, pixels: PixelDataset, augmented: PixelDataset | None = None, views: int = 1, seed: int = 0
    ) -> None:
        """Decode nothing yet.

        Args:
            pixels: The pictures with the evaluation transform.
            augmented: The same pictures with the training transform; needed for more than one view.
            views: How many, at least 1.
            seed: Of the random draws.
        """
        self.sources = (pixels, pixels if augmented is None else augmented)
        self.views, self.seed = views, seed

    def __len__(self) -> int:
        """Return the number of images times views."""
        return len(self.sources[0]) * self.views

    def keys(self) -> list[bytes]:
        """Return the key of each row, see `cache.row_keys`: all views of the first image, then of the next."""
        plain = row_keys(self.sources[0])
        if self.views == 1:
            return [key for keys in plain for key in keys]
        others = row_keys(self.sources[1], range(1, self.views), self.seed)
        return [key for both in zip(plain, others, strict=True) for keys in both for key in keys]

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        """Return the pixels of some rows, float32 of shape (rows, channels, height, width)."""
        made, decoded, picture = [], None, None
        for row in rows:
            image, view = divmod(row, self.views)
            source = self.sources[view > 0]
            if decoded != (image, view > 0):  # all drawn views of a picture need it decoded once
                record = source.dataset[image]
                picture = decode_image(record["image"], record["file_name"], source.shortest_side)
                decoded = (image, view > 0)
            assert picture is not None
            with drawing(draw_seed(self.seed, view, record["file_name"])) if view else contextlib.nullcontext():
                made.append(source.transform(picture))
        return torch.stack(made)


def run_backbone(
    model: Model,
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
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    network = Network(model, lambda run, pixels: run.extract_features(pixels))
    source: Iterable[Any] = batches
    if workers:
        # With a generator of its own the loader draws nothing from the one that training draws from.
        generator = torch.Generator()
        source = DataLoader(views, batch_size=None, sampler=batches, num_workers=workers, generator=generator)
    call = network if workers else lambda batch: network(views[batch])
    with tqdm(total=len(rows), desc=title, unit="image", disable=quiet) as progress:
        for features in run_in_threads(call, source, model.device):
            yield features
            progress.update(len(features))


def cached_features(
    model: Model,
    views: Views,
    folder: str | Path | None,
    title: str = "features",
    **options: Any,  # noqa: ANN401
) -> Tensor | MappedRows:
    """Return the features of all pictures in all views; only those that are not in the folder are computed.

    A row is found again by the backbone's weights and settings, what the head consumes, the device type, the picture,
    its transform and the library versions; order, split and labels do not matter, and a data set that grew costs its
    new pictures. Of several processes each computes a part. A run that is killed goes on where its last shard ended.

    Args:
        model: Its backbone must be frozen. Put in evaluation mode; run on its own device.
        views: The pictures.
        folder: Where features are kept, see `cache.DEFAULT_FOLDER`; None: in memory only.
        title: Shown at the progress bar and in the log.
        options: `batch_size`, `workers` and `quiet` of `run_backbone`.

    Returns:
        Row `image * views.views + view` holds one view of one image. Pooled features are a tensor of shape
        (rows, width); positions stay on disk unless `folder` is None and are read row by row.

    Raises:
        HalflabelError: If there are no pictures, one cannot be read, or the folder cannot be written to.
    """
    if not len(views):
        raise HalflabelError(f"{title}: there are no pictures")

    def run(rows: Sequence[int]) -> Iterator[Tensor]:
        return run_backbone(model, views, rows, title=title, **options)

    state = process_state()
    if folder is None and state.num_processes > 1:
        return _gathered_features(model, views, title, **options)
    if folder is None:
        return torch.cat(list(run(range(len(views)))))
    cache, keys = FeatureFolder(folder, backbone_parts(model)), views.keys()
    found = cache.find(keys)
    of = f"{len(keys)}" + (f" ({len(keys) // views.views} images in {views.views} views)" if views.views > 1 else "")
    log.info("%s: %d of %s are in %s", title, sum(key in found for key in keys), of, cache.path)
    # In the second round a process computes what it still misses, where machines do not share the folder.
    for processes, index in ((state.num_processes, state.process_index), (1, 0)):
        missing = {key: row for row, key in enumerate(keys) if key not in found}
        # Keys are hashes, which fall evenly; and the processes need not agree on what is missing.
        mine = [row for key, row in missing.items() if int.from_bytes(key[:4], "big") % processes == index]
        if mine:
            _compute(cache, run, keys, mine)
        state.wait_for_everyone()
        if mine or processes > 1:
            found = cache.find(keys)
    shards = {shard: number for number, shard in enumerate(sorted({shard for shard, _ in found.values()}))}
    try:
        places = [(shards[shard], row) for shard, row in (found[key] for key in keys)]
        rows = MappedRows(list(shards), np.array(places, dtype=np.int64))
    except (KeyError, FileNotFoundError) as error:
        raise HalflabelError(f"features in {cache.path} were removed while they were computed; start again") from error
    return rows.gather() if len(rows.shape) == 2 else rows


def _gathered_features(model: Model, views: Views, title: str, **options: Any) -> Tensor:  # noqa: ANN401
    """Return what several processes compute in memory: they hand it over in files, not through their devices."""
    state, names = process_state(), [""]
    if state.is_main_process:
        names[0] = tempfile.mkdtemp()
    broadcast_object_list(names)
    rows = cached_features(model, views, names[0], title, **options)
    found = rows if isinstance(rows, Tensor) else rows.gather()
    state.wait_for_everyone()
    if state.is_local_main_process:
        shutil.rmtree(names[0], ignore_errors=True)
    return found


def _compute(
    cache: FeatureFolder, run: Callable[[Sequence[int]], Iterator[Tensor]], keys: Sequence[bytes], rows: Sequence[int]
) -> None:
    """Compute rows and keep them, a shard at a time."""
    cache.prepare()  # before the work, so that a folder that cannot be written to is known at once
    done, start, parts, began = 0, 0, [], time.monotonic()
    for features in run(rows):
        parts.append(features)
        done += len(features)
        limit = min(SHARD_ROWS, max(1, _SHARD_BYTES // features[0].nbytes))
        if done == len(rows) or done - start >= limit or time.monotonic() - began > _SHARD_SECONDS:
            cache.write([keys[row] for row in rows[start:done]], torch.cat(parts))
            start, parts, began = done, [], time.monotonic()
