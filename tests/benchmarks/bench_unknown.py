"""What recipes recover of the mAP that unknown labels cost, paired over seeds of hiding.

    python tests/benchmarks/bench_unknown.py labels.csv "linear_probe" "linear_probe --views 5" "self_train" \
        [--keep 0.3 0.1] [--seeds 10] [--output table.json]

Each run is a recipe with its overrides, as on the command line. The first is the one to compare with: the gap is its
mAP with all labels known minus its mean mAP with a share of them; `closed` is a recipe's mean gain over it as a share
of the gap, with a 95 % t interval over the seeds. All is measured on the test split; choose settings elsewhere.
"""

import numpy as np
from recipe_runs import recipe_parser, run_recipe, start_quietly, write_table
from scipy import stats


def run(command, data, keep, seed):
    """Train once on the labels that the seed leaves; return the metrics and seconds."""
    metrics, _, seconds = run_recipe(command, data, hide_seed=seed, keep_labels=keep, validation_share=0)
    return metrics, seconds


def interval(values):
    """Return the half width of a 95 % t interval."""
    return stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / len(values) ** 0.5


def main():
    parser = recipe_parser(__doc__)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.3, 0.1])
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    start_quietly()
    table = {}
    for command in options.runs:
        full = run(command, options.data, 1.0, 0)[0]["mAP"]
        table[command] = {"full": full}
        print(f"{command:60} all known: {full:.3f}", flush=True)
    for keep in options.keep:
        base = None
        for command in options.runs:
            found = [run(command, options.data, keep, seed) for seed in range(options.seeds)]
            scores = np.array([metrics["mAP"] for metrics, _ in found])
            base = scores if base is None else base
            gap = table[options.runs[0]]["full"] - base.mean()
            gain, half = (scores - base).mean(), interval(scores - base)
            table[command][str(keep)] = {"mAP": scores.tolist(), "gain": gain, "half_interval": half, "gap": gap,
                                         "pseudo_labels": [metrics.get("pseudo_labels") for metrics, _ in found],
                                         "seconds": float(np.median([seconds for _, seconds in found]))}  # fmt: skip
            print(
                f"{command:60} {keep}: {scores.mean():.3f} ± {scores.std(ddof=1):.3f}  gain {gain:+.4f} ± {half:.4f}, "
                f"{100 * gain / gap:.0f} % ± {100 * half / gap:.0f} % of {gap:.3f} closed", flush=True)  # fmt: skip
            write_table(table, options.output)


if __name__ == "__main__":
    main()
