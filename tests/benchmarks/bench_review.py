"""How many flipped answers stand first in `halflabel review`, beside the model's own scores and cleanlab's.

    pip install cleanlab
    python tests/benchmarks/bench_review.py labels.csv [--keep 0.3] [--flipped 0.05] [--seeds 8]

The table must name its splits. Of the training answers a share is kept, of these a share is flipped, and a probe is
trained on them as `halflabel train linear_probe` does. Then all known training entries are ranked: by the model's score
of the answer that was given, as `review` ranks them, and by cleanlab's label quality (self-confidence, and normalised
margin) of each label on the out-of-fold scores that `review` rests on. Told is the share of the flipped answers among
the first 5 % of the entries, with the standard deviation over seeds.
"""

import argparse
import logging
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from side_by_side import show

import halflabel
from halflabel.data.splitting import hide_labels
from halflabel.decide.decision_fitting import fit_decisions
from halflabel.training.folds import probe_out_of_fold
from halflabel.use.inference import predict_logits


def spoil(table, names, keep, flipped, seed):
    """Return the training rows with some answers kept and some of these flipped, and which are flipped."""
    train = table[table.split == "train"].reset_index(drop=True)
    rng, truth = np.random.default_rng(seed), train[names].to_numpy()
    labels = hide_labels(truth.astype(np.int8), "random", keep=keep, seed=seed) if keep < 1 else truth.astype(np.int8)
    known = np.argwhere(labels >= 0)
    chosen = known[rng.choice(len(known), round(flipped * len(known)), replace=False)]
    wrong = np.zeros(labels.shape, bool)
    wrong[tuple(chosen.T)] = True
    labels[wrong] = 1 - labels[wrong]
    return train.assign(**dict(zip(names, np.where(labels >= 0, labels, -1).T, strict=True))), wrong


def found_first(suspicion, known, wrong, share=0.05):
    """Return the share of the wrong entries among the most suspicious known ones."""
    order = np.argsort(-np.where(known, suspicion, -np.inf), axis=None, kind="stable")
    return wrong.ravel()[order[: round(share * known.sum())]].sum() / wrong.sum()


def from_review(model, data, shape, names):
    """Return suspicions as `review` ranks them: those of a kind by rank, the kinds together by the score."""
    table = halflabel.review(model, data, limit=10**6).table
    table = table[table.kind.str.startswith("known")]
    suspicion = np.full(shape, -1.0)
    given = np.where(table.known == "yes", table.score, 1 - table.score)
    suspicion[table.row, [names.index(label) for label in table.label]] = 1 - given
    return suspicion


def measure(table, names, folder, options, seed):
    from cleanlab.rank import get_label_quality_scores

    spoiled, wrong = spoil(table, names, options.keep, options.flipped, seed)
    source = options.data.parent / f".spoiled_{seed}.csv"
    spoiled.to_csv(source, index=False)
    try:
        run = halflabel.train("linear_probe", data=str(source), output_dir=str(folder / str(seed)), seed=seed,
                              disable_tqdm=True)  # fmt: skip
        images = halflabel.load_images(str(source))
        suspicion = from_review(run.folder, str(source), wrong.shape, names)
    finally:
        source.unlink()
    model, known = halflabel.load(run.folder), images.labels >= 0
    own = model.model.config.decision_rule.scores(predict_logits(model, images))
    logits = probe_out_of_fold(model.model, model.processor, images)
    scores = fit_decisions(logits, images.labels).scores(logits)
    row = {"the model's own": found_first(1 - np.where(images.labels == 1, own, 1 - own), known, wrong),
           "review": found_first(suspicion, known, wrong)}  # fmt: skip
    for method in ("self_confidence", "normalized_margin"):
        quality = np.zeros(wrong.shape)
        for j in range(len(names)):
            rows = known[:, j]
            both = np.column_stack([1 - scores[rows, j], scores[rows, j]])
            quality[rows, j] = get_label_quality_scores(images.labels[rows, j].astype(int), both, method=method)
        row[f"cleanlab {method}"] = found_first(-quality, known, wrong)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--keep", type=float, default=0.3)
    parser.add_argument("--flipped", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--output", help="also write the table as JSON")
    options = parser.parse_args()
    logging.getLogger("halflabel").setLevel(logging.ERROR)
    table = pd.read_csv(options.data)
    names = [name for name in table.columns if name not in ("file_name", "split", "group")]
    with tempfile.TemporaryDirectory() as folder:
        found = pd.DataFrame(measure(table, names, Path(folder), options, seed) for seed in range(options.seeds))
    rows = [{"ranked by": name, "flips found": found[name].mean(), "sd": found[name].std()} for name in found]
    show(rows, list(rows[0]), options.output)


if __name__ == "__main__":
    main()
