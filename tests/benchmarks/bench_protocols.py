"""Which loss for which kind of missing labels: test mAP of a linear probe, loss x hiding protocol, over seeds.

    python tests/benchmarks/bench_protocols.py labels.csv [--seeds 0 1 2] [--losses bce asl] [--output table.json]

The backbone sees each picture once; every cell trains the head of the recipe `linear_probe` on what a protocol leaves.
"""

import argparse
import json
import statistics

import numpy as np
import torch
from transformers import set_seed
from transformers.utils import logging as transformers_logging

from halflabel import (
    TimmMultiLabelForImageClassification,
    average_precision,
    count_labels,
    hide_labels,
)
from halflabel.data.pixels import FeatureDataset
from halflabel.metrics.entries import mean_defined
from halflabel.training.folds import fit_head
from halflabel.training.preparation import (
    TargetCounts,
    loss_configuration,
    make_datasets,
    prepare_data,
    start_head,
    training_targets,
)
from halflabel.training.recipe import parse_recipe
from halflabel.training.transfer import build_model, choose_trained

PROTOCOLS = {
    "random 0.3": {"protocol": "random", "keep": 0.3},
    "random 0.1": {"protocol": "random", "keep": 0.1},
    "single positive": {"protocol": "single_positive"},
    "5 per label": {"protocol": "per_label", "per_label": 5},
    "20 per label": {"protocol": "per_label", "per_label": 20},
}
LOSSES = {
    "bce": [],
    "bce, pos_weight auto": ["--pos_weight", "auto"],
    "bce, unknown as no": ["--unknown", "negative"],
    "focal": ["--loss", "focal"],
    "asl": ["--loss", "asl"],
    "selective": ["--loss", "selective"],
    "ll_r": ["--loss", "ll_r"],
    "ll_ct": ["--loss", "ll_ct"],
    "splc": ["--loss", "splc"],
    "em": ["--loss", "em"],
    "wan": ["--loss", "wan"],
}


def probe(recipe, backbone, features, names, labels, test_labels, seed):
    targets = training_targets(labels, names, recipe)
    set_seed(seed)
    counts = TargetCounts.of(count_labels(labels), names, recipe)
    objective = loss_configuration(recipe, counts, names)
    config = type(backbone.config)(**{**backbone.config.to_dict(), **objective})
    model = TimmMultiLabelForImageClassification(config, backbone=backbone.backbone)
    model.freeze_backbone()
    train = FeatureDataset(features["train"], targets)
    start_head(model, train, counts)
    fit_head(recipe.change(seed=seed), model, train, counts)
    with torch.no_grad():
        scores = model.eval()(features=features["test"]).logits.numpy()
    return mean_defined(average_precision(scores, test_labels))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--losses", nargs="+", default=list(LOSSES))
    parser.add_argument("--output")
    options = parser.parse_args()
    transformers_logging.set_verbosity_error()
    shared = ["--data", options.data, "--validation_share", "0", "--save_strategy", "no", "--eval_strategy", "no",
              "--logging_strategy", "no", "--disable_tqdm", "true", "--report_to", "none"]  # fmt: skip
    recipe = parse_recipe("linear_probe", shared)
    data = prepare_data(recipe)
    images = data.images
    truth = {split: images.of_split(split).labels for split in ("train", "test")}
    names = images.label_space.names
    model, processor = build_model(recipe, data)
    choose_trained(model, recipe.training)
    sets = make_datasets(recipe, model, processor, data)
    features = {split: sets[split].features for split in truth}
    table = {}
    for protocol, how in PROTOCOLS.items():
        for loss in options.losses:
            results = []
            for seed in options.seeds:
                chosen = parse_recipe("linear_probe", [*shared, *LOSSES[loss]])
                labels = hide_labels(truth["train"], **how, seed=seed)
                results.append(probe(chosen, model, features, names, labels, truth["test"], seed))
            table.setdefault(loss, {})[protocol] = results
            spread = statistics.stdev(results) if len(results) > 1 else np.nan
            print(f"{protocol:16} {loss:22} {statistics.mean(results):.3f} ± {spread:.3f}", flush=True)
    if options.output:
        with open(options.output, "w", encoding="utf-8") as file:
            json.dump(table, file, indent=1)


if __name__ == "__main__":
    main()
