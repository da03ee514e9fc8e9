"""How often `halflabel compare` recommends the recipe that is best on test, or within 0.01 of the best.

    python tests/benchmarks/bench_compare.py labels.csv [--seeds 3] [--recipes A B] [--output FOLDER]

Settings: random 0.05 to 0.8, 5 and 20 per label, by group and single positive on a fully labelled set, and some of them
on the rendered street scenes with all their answers. Also counted: recommendations from a single seed, which is what a
user with one draw of missing labels has.
"""

import argparse
import json
import shlex
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
from transformers.utils import logging as transformers_logging

from halflabel.data.loading import load_images
from halflabel.data.sample import draw_scene
from halflabel.studies.compare import NEAR, choose, render_comparison
from halflabel.studies.compare import compare as compare_recipes
from halflabel.studies.compare_runs import Run, parse_entrants

RECIPES = ["linear_probe", "mlp_probe", "linear_probe --loss ll_r", "linear_probe --unknown negative", "self_train"]
SINGLE = {"single positive": "--hide_protocol single_positive"}


def random(*shares):
    return {f"random {share}": f"--keep_labels {share}" for share in shares}


def per_label(*counts):
    return {f"{count} per label": f"--hide_protocol per_label --hide_per_label {count}" for count in counts}


def two_teams(data):
    """Two teams that share the labels."""
    names = load_images([data]).label_space.names
    teams = json.dumps({"first": names[0::2], "second": names[1::2]})
    return {"by group (2 teams)": f"--hide_protocol by_group --hide_groups {shlex.quote(teams)}"}


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


def compare(data, hiding, seeds, recipes, folder):
    """Compare under one kind of hiding; return the report, and how far below the best single seeds recommend."""
    texts = [f"{recipe} {hiding}" for recipe in recipes]
    report = compare_recipes(texts, [data], seeds=seeds, output=folder)
    runs = [Run(**json.loads(line)) for line in (folder / "runs.jsonl").read_text().splitlines()[1:]]
    entrants = parse_entrants(texts, folder)
    single = []
    for seed in range(seeds):
        made = {run.recipe: run for run in runs if run.seed == seed}
        test = {name: np.mean(np.array(run.test_ap, dtype=float)) for name, run in made.items()}
        judged = {name: np.array([run.judged], dtype=float) for name, run in made.items()}
        resampled = {name: np.array([run.resampled], dtype=float) for name, run in made.items()}
        chosen = choose(entrants, next(iter(made.values())).known_per_label, judged, resampled).recipe
        single.append(max(test.values()) - test[chosen])
    return report, single


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--recipes", nargs="+", default=RECIPES)
    parser.add_argument("--output", type=Path, default=Path("bench_compare"))
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    datasets.disable_progress_bars()
    signs = random(0.05, 0.1, 0.3, 0.5, 0.8) | per_label(5, 20) | two_teams(options.data) | SINGLE
    streets = render_streets(options.output / "street_scenes")
    asked = [(options.data, "data", name, hiding) for name, hiding in signs.items()]
    asked += [
        (streets, "streets", name, hiding) for name, hiding in (random(0.1, 0.3) | per_label(20) | SINGLE).items()
    ]
    below, single, plain = [], [], []
    for data, of, name, hiding in asked:
        folder = options.output / of / name.replace(" ", "_")
        report, seeds = compare(data, hiding, options.seeds, options.recipes, folder)
        print(f"{of}, {name}\n{render_comparison(report)}\n", flush=True)
        means = [row["test_mAP"]["mean"] for row in report["recipes"].values()]
        below.append(report["recommended"]["below_best"])
        plain.append(max(means) - means[0])
        single += seeds
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
