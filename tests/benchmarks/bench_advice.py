"""Is the advice right, honest and quick?

python tests/benchmarks/bench_advice.py null SOURCE      # labels drawn at random: how often is anything claimed?
python tests/benchmarks/bench_advice.py time SOURCE      # seconds, cold and with cached features, against images
python tests/benchmarks/bench_advice.py ranking SOURCE   # probes and short trainings: do they order networks alike?
PYTHONPATH=tests python tests/benchmarks/bench_advice.py planted --seeds 8   # rendered scenes: is what is there found?
"""

import argparse
import collections
import tempfile
import time

import numpy as np
import torch

from halflabel.data.loading import load_images
from halflabel.studies.advice_data import advise_data
from halflabel.studies.affinity import make_trunks, measure_affinity
from halflabel.studies.backbone_features import load_backbones
from halflabel.studies.feature_probe import probe
from halflabel.studies.fine_tuning_advice import train_and_predict
from halflabel.studies.grouped_folds import draw_folds, number_groups
from halflabel.studies.network_comparison import INFLATION, rank_networks
from halflabel.studies.ranking_influence import ranks_within
from halflabel.studies.transfer_advice import advise_transfer


def load(source):
    images = load_images([source])
    return images.select(np.flatnonzero(images.column("split") != "test"))


def draw(images, how, rng):
    """Give the images labels that have nothing to do with them."""
    if how == "shuffled":  # the rows of the real labels, in another order
        return images.with_labels(images.labels[rng.permutation(len(images))])
    groups = number_groups(images.column("group"))  # as annotators of near-duplicates would: one answer per group
    drawn = rng.random((groups.max() + 1, images.labels.shape[1])) < (0.1, 0.2, 0.5, 0.8)
    return images.with_labels(np.where(images.labels >= 0, drawn[groups], images.labels).astype(np.int8))


def null(options):
    images = load(options.source)
    features, _ = load_backbones(images, options.backbone, "installed", options.cache, quiet=True)
    for how in ("shuffled", "per group"):
        verdicts, labels = collections.Counter(), collections.Counter()
        for seed in range(options.seeds):
            advice = advise_transfer(draw(images, how, np.random.default_rng(seed)), features, seed=seed)
            verdicts[advice["verdict"]] += 1
            labels.update(row["verdict"] for row in advice["labels"].values())
        print(f"labels drawn at random ({how}), {options.seeds} seeds: {dict(verdicts)}; of labels: {dict(labels)}")


def measure_time(options):
    images = load(options.source)
    print(f"{torch.get_num_threads()} threads")
    for count in (len(images) // 4, len(images) // 2, len(images)):
        part = images.select(range(count))
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "cached"):
                start = time.perf_counter()
                features, _ = load_backbones(part, options.backbone, "installed", folder, quiet=True)
                loaded = time.perf_counter()
                advise_data(part)
                advise_transfer(part, features)
                told = f"features {loaded - start:.1f} s, advice {time.perf_counter() - loaded:.1f} s"
                print(f"{count} images, {state}: {told}", flush=True)


def ranking(options):
    """Order every pretrained backbone, and the first one with random weights, by probes and by one training each."""
    images, names = load(options.source), options.backbone
    features, _ = load_backbones(images, names, "installed", options.cache, quiet=True)
    groups = number_groups(images.column("group"))
    folds = draw_folds(images.labels, groups)
    networks = [(name, "pretrained") for name in names] + [(names[0], "random")]
    probed, trained = {name: {} for name in names}, {name: {} for name in names}
    tested = folds < 2
    split = images.with_column("split", np.where(tested, "test", "train"))
    for name, kind in networks:
        held_out = probe(getattr(features[name], kind), images.labels, folds)
        probed[name][kind] = ranks_within(held_out.predictions, folds)
        start, scores = time.perf_counter(), np.full(images.labels.shape, np.nan)
        scores[tested] = train_and_predict(
            split, name, "installed" if kind == "pretrained" else None, options.epochs, quiet=True
        )
        trained[name][kind] = scores
        print(f"{name}, {kind}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    labels = np.where(tested[:, None], images.labels, -100)
    show("probes, five folds", *rank_networks(probed, images.labels, groups, INFLATION))
    show(f"trained for {options.epochs} epochs on three folds", *rank_networks(trained, labels, groups, 1 + 2 / 3))


def planted(options):
    """Count in how many drawings of scenes and labels a shared feature, a negation and a conflict are found."""
    import planted_scenes as scenes

    found = collections.Counter()
    for seed in range(options.seeds):
        features, labels = scenes.plant(seed)
        images = np.arange(len(labels))
        affinity = measure_affinity(make_trunks(features), labels, draw_folds(labels, images, seed), images)
        low, high = affinity.intervals(15)
        found["shared feature"] += low[scenes.SHARED] > 0
        found["negation"] += low[scenes.NEGATED] > 0
        found["opposed shortcuts"] += high[scenes.OPPOSED] < 0
        found["anything of the label at random"] += ((low > 0) | (high < 0))[scenes.AT_RANDOM].any()
    for what, times in found.items():
        print(f"{what}: found in {times} of {options.seeds}")


def show(title, rows, told):
    print(title)
    for row in rows:
        behind = "behind by {difference:.3f} ({low:.3f} to {high:.3f})".format(**row["behind"])
        print(f"  {row['backbone']}, {row['weights']}: AUROC {row['auroc']:.3f}, {behind}")
    print(f"  {told}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("null", "time", "ranking", "planted"))
    parser.add_argument("source", nargs="?", help="of all but planted")
    parser.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0"])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--cache")
    options = parser.parse_args()
    {"null": null, "time": measure_time, "ranking": ranking, "planted": planted}[options.what](options)
