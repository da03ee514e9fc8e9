"""Is the advice right, honest and quick?

python tests/benchmarks/bench_advice.py null SOURCE      # labels drawn at random: how often is anything claimed?
python tests/benchmarks/bench_advice.py time SOURCE      # seconds, cold and with cached features, against images
python tests/benchmarks/bench_advice.py ranking SOURCE   # probes and short trainings: do they order networks alike?
"""

import argparse
import collections
import tempfile
import time

import datasets
import numpy as np
import torch

from halflabel.data.loading import load_images
from halflabel.studies.advice_data import advise_data
from halflabel.studies.held_out import Measured, measurable, rank_networks
from halflabel.studies.multitask_advice import advise_multi_task
from halflabel.studies.networks import held_out_probe, load_backbones, train_and_predict
from halflabel.studies.transfer_advice import FOLDS, INFLATION, advise_transfer, rank_known
from halflabel.training.folds import cut_folds
from halflabel.training.guesses import FeatureBasis


def load(source):
    images = load_images([source])
    return images.select(np.flatnonzero(images.column("split") != "test"))


def draw(images, how, rng):
    """Give the images labels that have nothing to do with them."""
    if how == "shuffled":  # the rows of the real labels, in another order
        return images.with_labels(images.labels[rng.permutation(len(images))])
    groups = images.groups  # as annotators of near-duplicates would: one answer per group
    drawn = rng.random((groups.max() + 1, images.labels.shape[1])) < (0.1, 0.2, 0.5, 0.8)
    return images.with_labels(np.where(images.labels >= 0, drawn[groups], images.labels).astype(np.int8))


def null(options):
    images = load(options.source)
    features, _ = load_backbones(images, options.backbone, "installed", options.cache, quiet=True)
    for how in ("shuffled", "per group"):
        verdicts, labels, together = (collections.Counter() for _ in range(3))
        for seed in range(options.seeds):
            drawn = draw(images, how, np.random.default_rng(seed))
            advice = advise_transfer(drawn, features, seed=seed)
            verdicts[advice["verdict"]] += 1
            labels.update(row["verdict"] for row in advice["labels"].values())
            together[advise_multi_task(drawn, features[options.backbone[0]], {}, seed=seed)["verdict"]] += 1
        print(f"labels drawn at random ({how}), {options.seeds} seeds: {dict(verdicts)}; of labels: {dict(labels)}; "
              f"learning them together: {dict(together)}", flush=True)  # fmt: skip


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
                data = advise_data(part)
                advise_transfer(part, features)
                advise_multi_task(part, features[options.backbone[0]], data["balance"])
                told = f"features {loaded - start:.1f} s, advice {time.perf_counter() - loaded:.1f} s"
                print(f"{count} images, {state}: {told}", flush=True)


def ranking(options):
    """Order every pretrained backbone, and the first one with random weights, by probes and by one training each."""
    images, names = load(options.source), options.backbone
    features, _ = load_backbones(images, names, "installed", options.cache, quiet=True)
    groups = images.groups
    labels, folds = measurable(images.labels, groups), cut_folds(images, FOLDS, 0)
    tested = folds < 2
    split = images.with_column("split", np.where(tested, "test", "train"))
    known = measurable(np.where(tested[:, None], labels, -100), groups)
    probed, trained = {}, {}
    for name, kind in [(name, "pretrained") for name in names] + [(names[0], "random")]:
        logits = held_out_probe(FeatureBasis.of(getattr(features[name], kind)), labels, folds)
        probed[name, kind] = Measured.of(rank_known(logits, labels, folds), labels, groups, INFLATION)
        start, scores = time.perf_counter(), np.full(images.labels.shape, np.nan)
        weights = "installed" if kind == "pretrained" else None
        scores[tested] = train_and_predict(split, name, weights, options.epochs)
        trained[name, kind] = Measured.of(scores, known, groups, 1 + 2 / 3)
        print(f"{name}, {kind}: trained in {time.perf_counter() - start:.0f} s", flush=True)
    show("probes, five folds", *rank_networks(probed))
    show(f"trained for {options.epochs} epochs on three folds", *rank_networks(trained))


def show(title, rows, told):
    print(title)
    for row in rows:
        behind = "behind by {difference:.3f} ({low:.3f} to {high:.3f})".format(**row["behind"])
        print(f"  {row['backbone']}, {row['weights']}: AUROC {row['auroc']:.3f}, {behind}")
    print(f"  {told}", flush=True)


if __name__ == "__main__":
    datasets.disable_progress_bars()
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("null", "time", "ranking"))
    parser.add_argument("source")
    parser.add_argument("--backbone", nargs="+", default=["tf_efficientnet_lite0"])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--cache")
    options = parser.parse_args()
    {"null": null, "time": measure_time, "ranking": ranking}[options.what](options)
