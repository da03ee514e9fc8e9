"""Mean average precision of recipes on one data set, mean and standard deviation over seeds of hiding.

    python tests/benchmarks/bench_transfer.py labels.csv "linear_probe" "linear_probe --head csra" "lp_ft" \
        [--keep 0.3] [--seeds 0 1 2] [--choose] [--output table.json]

Each run is a recipe with its overrides, as on the command line; seed and hide_seed are the seed. `--choose` shows, to
choose settings by, the last epoch's mAP on 25 % of the training images, groups kept whole, labels hidden as elsewhere.
"""

import statistics

from recipe_runs import recipe_parser, run_recipe, start_quietly, write_table


def run(command, options, seed):
    """Train once; return the mAP on test (or on validation) and seconds."""
    metrics, log, seconds = run_recipe(
        command, options.data, seed=seed, hide_seed=seed, keep_labels=options.keep,
        validation_share=0.25 if options.choose else 0,
    )  # fmt: skip
    validation = [entry["eval_mAP"] for entry in log if "eval_mAP" in entry]
    return validation[-1] if options.choose else metrics["mAP"], seconds


def main():
    parser = recipe_parser(__doc__)
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--choose", action="store_true")
    options = parser.parse_args()
    start_quietly()
    table = {}
    for command in options.runs:
        found = [run(command, options, seed) for seed in options.seeds]
        scores, seconds = [score for score, _ in found], statistics.median(s for _, s in found)
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        table[command] = {"mAP": scores, "mean": statistics.mean(scores), "sd": spread, "seconds": seconds}
        print(f"{command:70} {table[command]['mean']:.3f} ± {spread:.3f}   {seconds:.0f} s", flush=True)
    write_table(table, options.output)


if __name__ == "__main__":
    main()
