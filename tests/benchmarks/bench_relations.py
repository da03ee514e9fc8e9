"""What half the labels of a test image tell about the other half: gain in mAP and log loss over the picture alone.

    python tests/benchmarks/bench_relations.py street_scenes
    python tests/benchmarks/bench_relations.py ../shared/data/road_signs/labels.csv --keep 0.3 [--seeds 10] [--first 0]

Per seed: `keep` of the training entries stay known; a logistic regression per label on standardised features of a
frozen backbone; relations from cross-fitted logits of the training entries, groups kept together. On the test split a
random half of the known entries is given, and the other half is measured. `no evidence` is the same model without the
given answers. Also the soft targets of the hidden training entries, against the truth.
"""

import argparse
import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from halflabel import TimmMultiLabelForImageClassification, TimmMultiLabelImageProcessor, fit_decisions, hide_labels
from halflabel.data.loading import load_source
from halflabel.data.pixels import PixelDataset
from halflabel.decide.relation_fitting import calibrate_logits, fit_relations, relation_notes, relation_targets
from halflabel.metrics.measures import average_precision, log_loss
from halflabel.model.relations import answer
from halflabel.training.feature_cache import DEFAULT_FOLDER
from halflabel.training.feature_views import Views
from halflabel.training.features import cached_features

C = 0.01  # of the regressions, on standardised features


def load(source, backbone):
    """Return standardised features, labels, groups and which images are for training."""
    images = load_source(source)
    model = TimmMultiLabelForImageClassification.from_backbone(backbone, images.label_space.names, weights="installed")
    model.freeze_backbone()
    processor = TimmMultiLabelImageProcessor.from_backbone(model.backbone)
    pixels = PixelDataset(images, processor.eval_transform(), shortest_side=processor.needed_side())
    features = cached_features(model, Views(pixels), DEFAULT_FOLDER, quiet=True).numpy()
    train, groups = images.column("split") == "train", images.column("group").astype(str)
    groups = np.where(groups == "", [f"image {i}" for i in range(len(groups))], groups)
    features = (features - features[train].mean(axis=0)) / (features[train].std(axis=0) + 1e-6)
    return features, images.labels.astype(int), groups, train, images.label_space.names


def logits_of(fit, labels, others):
    """Return logits of other images, by a regression per label; the base rate where only yes or no is known."""
    columns = []
    for column in labels.T:
        known = column >= 0
        if len(set(column[known])) < 2:
            rate = ((column == 1).sum() + 0.5) / (known.sum() + 1)
            columns.append(np.full(len(others), np.log(rate / (1 - rate))))
        else:
            model = LogisticRegression(C=C, max_iter=500).fit(fit[known], column[known])
            columns.append(model.decision_function(others))
    return np.stack(columns, axis=1)


def cross_fit(features, labels, groups, seed):
    logits = np.empty(labels.shape)
    for inside, outside in GroupKFold(5, shuffle=True, random_state=seed).split(features, groups=groups):
        logits[outside] = logits_of(features[inside], labels[inside], features[outside])
    return logits


def measure(scores, labels):
    return np.array([np.nanmean(average_precision(scores, labels)), np.nanmean(log_loss(scores, labels))])


def one_seed(data, keep, seed):
    """Return mAP and log loss (without, with) for test and for hidden training entries, and the relations."""
    features, complete, groups, train, _ = data
    truth = complete[train]
    labels = hide_labels(truth, keep=keep, seed=seed).astype(int) if keep < 1 else truth
    crossed = cross_fit(features[train], labels, groups[train], seed)
    rule = fit_decisions(crossed, labels)
    relations = fit_relations(rule.log_odds(crossed), labels)
    logits, test = logits_of(features[train], labels, features[~train]), complete[~train]
    given = np.where(np.random.default_rng(seed).random(test.shape) < 0.5, test, -100)
    rest = np.where(given < 0, test, -100)
    found = [measure(answer(rule, logits, relations, codes)[0], rest) for codes in (np.full_like(test, -100), given)]
    hidden = np.where(labels < 0, truth, -100)
    if (hidden >= 0).any():
        alone = 1 / (1 + np.exp(-calibrate_logits(crossed, labels)))
        found += [measure(scores, hidden) for scores in (alone, relation_targets(crossed, labels))]
    return np.array(found), relations


def main():
    warnings.simplefilter("ignore", ConvergenceWarning)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("--keep", type=float, default=1.0)
    parser.add_argument("--backbone", default="tf_efficientnet_lite0")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    data = load(options.source, options.backbone)
    runs = [one_seed(data, options.keep, seed) for seed in range(options.first, options.first + options.seeds)]
    print(
        f"{options.source}, {options.keep:.0%} of the training entries kept, {len(runs)} seeds; mean +- sd over seeds"
    )
    found = np.array([measured for measured, _ in runs])
    for title, pair in (("test, half given", found[:, :2]), ("hidden training entries", found[:, 2:])):
        if pair.shape[1]:
            for i, (measure_name, better) in enumerate((("mAP", 1), ("log loss", -1))):
                before, after = pair[:, 0, i], pair[:, 1, i]
                change = after - before
                wins = (better * change > 0).sum()
                print(f"  {title:24} {measure_name:8} no evidence {before.mean():.4f}, with {after.mean():.4f}: "
                      f"{change.mean():+.4f} +- {change.std(ddof=1):.4f}, better in {wins} of {len(runs)}, "
                      f"worst {(better * change).min() * better:+.4f}")  # fmt: skip
    for line in relation_notes(runs[0][1], data[4]):
        print(f"  first seed: {line}")


if __name__ == "__main__":
    main()
