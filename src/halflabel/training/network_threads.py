"""A network that only infers, run in threads: decoding and arithmetic side by side.

Each of several threads decodes a batch and runs the network on it. On the CPU each has a core of its own: a network
that runs on all cores at once waits for the slowest of them at every layer. On an accelerator the threads take turns at
it, and while one has its turn the others decode, transfer and fetch.
"""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .folding import fold_batch_norms

_MOST_THREADS = 16  # beyond, they mostly wait for Python's lock
_CPU_BATCH = 4  # on a core: activations of more leave its cache, and its share of memory that is kept for reuse

Item = TypeVar("Item")
Made = TypeVar("Made")


def count_threads(device: torch.device) -> int:
    """Return how many threads `run_in_threads` starts."""
    if device.type == "cpu":
        return min(_MOST_THREADS, torch.get_num_threads())
    return min(_MOST_THREADS, max(2, (os.cpu_count() or 1) // _processes_here()))


def batch_limit(device: torch.device, batch_size: int) -> int:
    """Return how many pictures a thread takes at once where `batch_size` are allowed: on the CPU no more than 4."""
    return min(batch_size, _CPU_BATCH) if device.type == "cpu" else batch_size


class Network:
    """A model in evaluation mode that several threads may call."""

    def __init__(
        self,
        model: TimmMultiLabelForImageClassification,
        some_pixels: Tensor,
        run: Callable[[TimmMultiLabelForImageClassification, Tensor], Tensor],
    ) -> None:
        """Fold what can be folded, see `fold_batch_norms`.

        Args:
            model: In evaluation mode, on its device and in its precision.
            some_pixels: A few pictures to try the folded model on.
            run: What is computed: a function of the model and pixels of shape (batch, channels, height, width).
        """
        self.device, self.dtype, self.run = model.device, model.dtype, run
        self.turn = threading.Semaphore(_MOST_THREADS if self.device.type == "cpu" else 1)
        self.model = fold_batch_norms(model, self._on_device(some_pixels))

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Return what the network makes of a batch of pixels, float32 on the CPU."""
        pixels = self._on_device(pixels)
        with self.turn:  # on an accelerator the activations of one batch at a time
            made = self.run(self.model, pixels)
        return made.float().cpu()

    def _on_device(self, pixels: Tensor) -> Tensor:
        # channels_last is the faster layout of convolutions on the CPU and on recent GPUs
        pixels = pixels.to(memory_format=torch.channels_last)
        on_cuda = self.device.type == "cuda"
        if on_cuda:
            pixels = pixels.pin_memory()  # from pinned memory a copy runs beside the network
        return pixels.to(self.device, non_blocking=on_cuda).to(self.dtype)


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


def _processes_here() -> int:
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # torchrun says how many processes share this machine
