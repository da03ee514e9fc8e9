"""Mean average precision of recipes on one data set, mean and standard deviation over seeds of hiding.

    python tests/benchmarks/bench_transfer.py labels.csv "linear_probe" "linear_probe --head csra" "lp_ft" \
        [--keep 0.3] [--seeds 0 1 2] [--choose] [--output table.json]

Each run is a recipe with its overrides, as on the command line; seed and hide_seed are the seed. `--choose` shows, to
choose settings by, the last epoch's mAP on 25 % of the training images, groups kept whole, labels hidden as elsewhere.
"""

import argparse
import json
import logging
import shlex
import statistics
import tempfile
import time

from transformers.utils import logging as transformers_logging

from halflabel.allocator import keep_freed_memory
from halflabel.arguments import parse_recipe
from halflabel.training import train


def run(command, options, seed):
    """Train once; return the mAP on test (or on validation) and seconds."""
    name, *overrides = shlex.split(command)
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--data", options.data, "--output_dir", folder, "--report_to", "none", "--disable_tqdm", "true",
                 "--seed", str(seed), "--hide_seed", str(seed), "--keep_labels", str(options.keep),
                 "--validation_share", "0.25" if options.choose else "0", "--logging_strategy", "no"]  # fmt: skip
        recipe = parse_recipe(name, [*flags, *overrides])
        start = time.perf_counter()
        result = train(recipe)
        seconds = time.perf_counter() - start
        log = json.loads((result.folder / "training_log.json").read_text())
    validation = [entry["eval_mAP"] for entry in log if "eval_mAP" in entry]
    return validation[-1] if options.choose else result.metrics["mAP"], seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("runs", nargs="+", metavar="RECIPE [--KEY VALUE ...]")
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--output")
    options = parser.parse_args()
    keep_freed_memory()  # as the command line does
    logging.getLogger("halflabel").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    table = {}
    for command in options.runs:
        found = [run(command, options, seed) for seed in options.seeds]
        scores, seconds = [score for score, _ in found], statistics.median(s for _, s in found)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table[command] = {"mAP": scores, "mean": statistics.mean(scores), "sd": spread, "seconds": seconds}
        print(f"{command:70} {table[command]['mean']:.3f} ± {spread:.3f}   {seconds:.0f} s", flush=True)
    if options.output:
        with open(options.output, "w") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
