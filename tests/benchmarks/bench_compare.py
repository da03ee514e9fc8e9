"""How often `halflabel compare` recommends the recipe that is best on test, or within 0.01 of the best.

    python tests/benchmarks/bench_compare.py labels.csv [--seeds 3] [--recipes A B] [--output FOLDER]

Settings: random 0.05 to 0.8, 5 and 20 per label, by group and single positive on a fully labelled set, and some of them
on the rendered street scenes with all their answers. Also counted: recommendations from a single seed, which is what a
user with one draw of missing labels has.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import pandas as pd

from halflabel.data.sample import draw_scene
from halflabel.studies.compare import Run
from halflabel.studies.compare_choice import choose
from halflabel.studies.compare_report import NEAR
from halflabel.studies.compare_settings import parse_entrants
from halflabel_cli import main as halflabel

RECIPES = ["linear_probe", "mlp_probe", "linear_probe --loss ll_r", "linear_probe --unknown negative", "self_train"]
SETTINGS = ["--protocol", "random", "per_label", "by_group", "single_positive",
            "--keep", "0.05", "0.1", "0.3", "0.5", "0.8", "--per_label", "5", "20"]  # fmt: skip
STREETS = ["--protocol", "random", "per_label", "single_positive", "--keep", "0.1", "0.3", "--per_label", "20"]


def render_streets(folder):
    """Write the pictures of street_scenes, and a table of all that is true of them."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for split, count in (("train", 640), ("test", 256)):
        for index in range(count):
            picture, answers = draw_scene(f"0 {split} {index}")  # the key of the sample's own pictures
            name = f"{split}_{index}.jpg"
            picture.save(folder / name, quality=90)
            rows.append({"file_name": name, **answers, "split": split})
    pd.DataFrame(rows).to_csv(folder / "labels.csv", index=False)
    return str(folder / "labels.csv")


def compare(data, asked, seeds, recipes, folder):
    """Run the command; return for each setting its report, and what single seeds recommend: (right, regret)."""
    arguments = ["compare", data, "--recipes", *recipes, *asked, "--seeds", str(seeds), "--output", str(folder)]
    if halflabel(arguments):
        raise SystemExit(2)
    report = json.loads((folder / "compare.json").read_text())
    lines = (folder / "runs.jsonl").read_text().splitlines()[1:]
    runs = [Run(**json.loads(line)) for line in lines]
    entrants = parse_entrants(recipes, [data], folder)
    single = []
    for part in report["settings"]:
        for seed in range(seeds):
            made = {run.recipe: run for run in runs if (run.setting, run.seed) == (part["name"], seed)}
            test = {name: np.mean(np.array(run.test_ap, dtype=float)) for name, run in made.items()}
            judged = {name: np.array([run.judged], dtype=float) for name, run in made.items()}
            resampled = {name: np.array([run.resampled], dtype=float) for name, run in made.items()}
            chosen = choose(entrants, made[recipes[0]].known_per_label, judged, resampled).recipe
            single.append(max(test.values()) - test[chosen])
    return report["settings"], single


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--output", type=Path, default=Path("bench_compare"))
    options = parser.parse_args()
    found, single = [], []
    for name, data, asked in (
        ("data", options.data, SETTINGS),
        ("streets", render_streets(options.output / "street_scenes"), STREETS),
    ):
        parts, seeds = compare(data, asked, options.seeds, options.recipes, options.output / name)
        found += parts
        single += seeds
    for part in found:
        chosen = part["recommended"]
        print(f"{part['name']:22} {chosen['recipe']:34} {chosen['below_best']:.3f} below the best")
    below = [part["recommended"]["below_best"] for part in found]
    first = [max(row["test_mAP"]["mean"] for row in part["recipes"].values()) for part in found]
    plain = [
        best - part["recipes"][options.recipes[0]]["test_mAP"]["mean"] for best, part in zip(first, found, strict=True)
    ]
    for what, values in (
        ("recommended", below),
        ("from single seeds", single),
        (f"always {options.recipes[0]}", plain),
    ):
        print(
            f"{what}: {sum(v <= NEAR for v in values)} of {len(values)} right, {np.mean(values):.3f} below on average"
        )


if __name__ == "__main__":
    main()
