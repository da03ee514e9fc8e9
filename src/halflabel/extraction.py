"""Pictures through the backbone as fast as the machine allows: decoding and network side by side, in threads."""

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from .feature_views import Views
from .folding import fold_batch_norms
from .modeling_timm_multilabel import TimmMultiLabelForImageClassification

_MOST_THREADS = 16  # beyond, they mostly wait for Python's lock
_CPU_BATCH = 4  # on a core: activations of more leave its cache, and its share of memory that is kept for reuse


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

    Each of several threads decodes a batch and runs the network on it. On the CPU each has a core of its own:
    a network that runs on all cores at once waits for the slowest of them at every layer. On an accelerator the
    threads take turns at it, and while one has its turn the others decode, transfer and fetch.

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
    on_cpu, cores = model.device.type == "cpu", torch.get_num_threads()
    threads = min(_MOST_THREADS, cores if on_cpu else max(2, (os.cpu_count() or 1) // _processes_here()))
    size = min(batch_size, math.ceil(len(rows) / threads), _CPU_BATCH if on_cpu else batch_size)
    batches = _Batches(views, rows, size)
    work = _Network(model, views.load(rows[:2]))
    source: Iterable[Any] = range(len(batches))
    if workers:
        # With a generator of its own the loader draws nothing from the one that training draws from.
        source = DataLoader(batches, batch_size=None, num_workers=workers, generator=torch.Generator())
    pool = ThreadPoolExecutor(threads, initializer=_start_thread, initargs=(model.device, max(1, cores // threads)))
    try:
        with tqdm(total=len(rows), desc=title, unit="image", disable=quiet) as progress:
            call = work if workers else lambda number: work(batches[number])
            for features in _in_order(pool, call, source, 2 * threads):
                yield features
                progress.update(len(features))
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(cores)  # the threads have set it for every thread that starts later, too


class _Network:
    """The backbone, called from several threads."""

    def __init__(self, model: TimmMultiLabelForImageClassification, some_pixels: Tensor) -> None:
        self.device, self.dtype = model.device, model.dtype
        self.turn = threading.Semaphore(_MOST_THREADS if self.device.type == "cpu" else 1)
        self.model = fold_batch_norms(model, self._on_device(some_pixels))

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return the features of a batch of pixels."""
        pixels = self._on_device(pixels)
        with self.turn:  # on an accelerator the activations of one batch at a time
            features = self.model.extract_features(pixels)
        return features.float().cpu()

    def _on_device(self, pixels: Tensor) -> Tensor:
        # channels_last is the faster layout of convolutions on the CPU and on recent GPUs
        pixels = pixels.to(memory_format=torch.channels_last)
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            pixels = pixels.pin_memory()  # from pinned memory a copy runs beside the network
        return pixels.to(self.device, non_blocking=on_cuda).to(self.dtype)


def _start_thread(device: torch.device, cores: int) -> None:
    torch.set_num_threads(cores)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # every thread starts at the first one, and would pin memory for that


def _in_order(
    pool: ThreadPoolExecutor, call: Callable[[Any], Tensor], source: Iterable[Any], ahead: int
) -> Iterator[Tensor]:
    """Yield what `call` makes of each item, in order, with at most `ahead` items under way."""
    waiting: deque[Future[Tensor]] = deque()
    for item in source:
        waiting.append(pool.submit(call, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun says how many processes share this machine
