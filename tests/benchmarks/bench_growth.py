"""Whether cost grows as it should: `predict` with the number of images, the loss with the number of labels.

    python tests/benchmarks/bench_growth.py labels.csv [--images 1000 2000 4000] [--labels 10 100 1000 10000]
                                            [--rounds 3] [--output FILE]

Each number of images is scored in a process of its own (`tf_efficientnet_lite0`, Parquet parts of 512; pictures of the
table under new names): time per image and the peak of resident memory. The loss: forward and backward of masked BCE,
64 images, one thread, time per entry, median.
"""

import argparse
import os
import resource
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench_predict import save_models
from side_by_side import copy_pictures, finish, run_side, show


def score(folder, images):
    from halflabel.training.features import keep_freed_memory
    from halflabel.use.predict import Scorer, find_images, score_to

    keep_freed_memory()
    scorer, files = Scorer(str(folder / "model" / "ours")), find_images([str(folder / f"images-{images}")])
    assert len(files) == images
    scorer.score(files[:64])
    start = time.perf_counter()
    score_to(scorer, files, f"{folder}/scores-{images}-{os.getpid()}/", part_size=512)
    seconds = time.perf_counter() - start
    return {"ms": 1000 * seconds / images, "GiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}


def loss(labels, rounds):
    from halflabel.model.objective import count_items, masked_loss

    torch.set_num_threads(1)
    logits = torch.randn(64, labels, requires_grad=True)
    targets = torch.randint(0, 2, (64, labels)).float().masked_fill(torch.rand(64, labels) < 0.7, -100)
    times = []
    for _ in range(30 * rounds):
        start = time.perf_counter()
        masked_loss(logits, targets, num_items_in_batch=count_items(targets)).backward()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?")
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 2000, 4000])
    parser.add_argument("--labels", type=int, nargs="+", default=[10, 100, 1000, 10_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", help="also write the table as JSON")
    parser.add_argument("--side", choices=("score",), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        finish(score(options.folder, options.count))
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_models("tf_efficientnet_lite0", folder / "model")
        table = copy_pictures(options.data, folder / "pictures", 500, large=False)
        pictures = sorted(table.parent.glob("*.jpg"))
        for count in options.images:
            (folder / f"images-{count}").mkdir()
            for number in range(count):
                os.link(pictures[number % len(pictures)], folder / f"images-{count}" / f"{number:07}.jpg")
        found = {count: [] for count in options.images}
        for _ in range(options.rounds):
            for count, made in found.items():
                made.append(run_side(__file__, "score", folder=folder, count=count))
        for count, made in found.items():
            rows.append({"what": "predict", "size": count, "ms per image": statistics.median(m["ms"] for m in made),
                         "peak GiB": max(m["GiB"] for m in made)})  # fmt: skip
    rows += [{"what": "loss", "size": labels, "ns per entry": 1e9 * loss(labels, options.rounds) / 64 / labels}
             for labels in options.labels]  # fmt: skip
    show(rows, ["what", "size", "ms per image", "peak GiB", "ns per entry"], options.output)


if __name__ == "__main__":
    main()
