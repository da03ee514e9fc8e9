"""Whether memory and open files stay flat while one process trains and predicts, round after round.

    python tests/benchmarks/bench_soak.py labels.csv [--minutes 30] [--backbone NAME] [--output FILE]

A round fine-tunes on 192 pictures of the table for two epochs with a worker process, checkpoints and measures, scores
the same pictures with the result, and removes both. After each round, once garbage is collected: resident memory
(MiB), open files, threads, child processes. The rise per round is the median slope between all pairs of rounds
(Theil-Sen) over the second half of them, with its 95 % interval; caches that fill once lie in the first half.
"""

import argparse
import gc
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import psutil
from scipy.stats import theilslopes
from side_by_side import copy_pictures, show

COLUMNS = ("round", "minutes", "MiB", "files", "threads", "children")
PICTURES = 192


def run_round(data, folder, backbone):
    """Train and predict in this process, as a user's own service might; stop on anything but success."""
    from halflabel_cli import main

    train = ["train", "finetune", "--data", str(data), "--output_dir", str(folder / "run"), "--backbone", backbone]
    if not backbone.startswith("tf_efficientnet_lite"):
        train += ["--weights", "random"]
    train += ["--num_train_epochs", "2", "--dataloader_num_workers", "1", "--save_strategy", "epoch"]
    predict = ["predict", str(folder / "run"), str(data.parent), "--output", str(folder / "scores.parquet")]
    for command in ([*train, "--disable_tqdm", "true", "--logging_strategy", "no"], predict):
        if main(command):
            sys.exit(f"failed: halflabel {' '.join(command)}")
    shutil.rmtree(folder)


def look(number, started):
    gc.collect()
    process = psutil.Process()
    return {
        "round": number, "minutes": (time.perf_counter() - started) / 60, "MiB": process.memory_info().rss / 2**20,
        "files": process.num_fds(), "threads": process.num_threads(), "children": len(process.children()),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--output", help="also write the table as JSON")
    options = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    rows, started = [], time.perf_counter()
    with tempfile.TemporaryDirectory() as place:
        data = copy_pictures(options.data, Path(place) / "pictures", PICTURES, large=False)
        while len(rows) < 6 or rows[-1]["minutes"] < options.minutes:
            run_round(data, Path(place) / "round", options.backbone)
            rows.append(look(len(rows) + 1, started))
            print(rows[-1], file=sys.stderr, flush=True)
    show(rows, COLUMNS, options.output)
    late = rows[len(rows) // 2 :]
    for name in COLUMNS[2:]:
        slope, _, low, high = theilslopes([row[name] for row in late], [row["round"] for row in late])
        print(f"{name}: {slope:+.3f} a round ({low:+.3f} to {high:+.3f}) from round {late[0]['round']} on")


if __name__ == "__main__":
    main()
