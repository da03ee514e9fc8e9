"""Loss, forward and backward, against the unmasked or full-label originals: medians of interleaved runs, one thread.

    python tests/benchmarks/bench_losses.py [--rounds 15] [--batch 256] [--labels 9605]

Prints each path's time over that of torch's unmasked BCE or timm's asymmetric loss, and the peak of extra memory in
tensors of the logits' size.
"""

import argparse
import statistics
import time

import torch
import torch.nn.functional as F
from timm.loss import AsymmetricLossMultiLabel

from halflabel import IGNORE_INDEX, masked_loss
from halflabel.model.objective import count_items


def data(batch, labels):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, labels, generator=generator) * 3
    complete = (torch.rand(batch, labels, generator=generator) < 0.1).float()
    unknown = torch.rand(batch, labels, generator=generator) < 0.5
    return logits, complete, complete.masked_fill(unknown, IGNORE_INDEX)


def once(function, logits):
    leaf = logits.clone().requires_grad_()
    start = time.perf_counter()
    function(leaf).backward()
    return time.perf_counter() - start


def extra_memory(function, logits):
    """Peak of what is allocated beyond the inputs, in tensors of the logits' size, from torch's profiler."""
    leaf = logits.clone().requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        function(leaf).backward()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak / (logits.numel() * logits.element_size())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--labels", type=int, default=9605)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logits, complete, partial = data(options.batch, options.labels)
    counts = count_items(partial)  # the Trainer counts, once for all pieces of a step
    timm_asl = AsymmetricLossMultiLabel()
    compiled = torch.compile(masked_loss)
    paths = {
        "torch BCE, unmasked": lambda z: F.binary_cross_entropy_with_logits(z, complete),
        "masked bce": lambda z: masked_loss(z, partial, num_items_in_batch=counts),
        "masked bce, compiled": lambda z: compiled(z, partial, num_items_in_batch=counts),
        "timm asl, unmasked": lambda z: timm_asl(z, complete),
        "masked asl": lambda z: masked_loss(z, partial, "asl", num_items_in_batch=counts),
        "masked asl, compiled": lambda z: compiled(z, partial, "asl", num_items_in_batch=counts),
    }
    times = {name: [] for name in paths}
    for round_ in range(options.rounds + 2):
        for name, path in paths.items():
            spent = once(path, logits)
            if round_ >= 2:
                times[name].append(spent)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.batch} x {options.labels}, float32, one thread, median of {options.rounds}")
    for name, median in medians.items():
        rival = "timm asl, unmasked" if "asl" in name else "torch BCE, unmasked"
        memory = extra_memory(paths[name], logits)
        print(f"{name:22} {1e3 * median:8.2f} ms {median / medians[rival]:6.2f} x {rival:20} memory {memory:5.2f}")


if __name__ == "__main__":
    main()
