"""mAP and mAUROC on known entries against torchmetrics and a scikit-learn loop: CPU time, medians of interleaved runs.

    python tests/benchmarks/bench_metrics.py [--rounds 5] [--images 20000] [--labels 400] [--known 0.3]
    python tests/benchmarks/bench_metrics.py --large     # 50,000 x 9,605: wall and CPU time and peak memory, ours alone

Scores are float32, labels int8, a tenth of the known entries are yes.
"""

import argparse
import resource
import statistics
import time

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torchmetrics.functional.classification import multilabel_auroc, multilabel_average_precision
from transformers import EvalPrediction

from halflabel.metrics.ranking import average_precision, roc_auc
from halflabel.metrics.report import evaluate_scores
from halflabel.metrics.trainer import trainer_metrics


def data(images, labels, known):
    rng = np.random.default_rng(0)
    scores, answers = np.empty((images, labels), np.float32), np.empty((images, labels), np.int8)
    for i in range(images):
        scores[i] = rng.random(labels, dtype=np.float32)
        drawn = rng.random(labels, dtype=np.float32)
        answers[i] = np.where(drawn < 0.1 * known, 1, np.where(drawn < known, 0, -100))
    return scores, answers


def scikit_learn(scores, answers):
    measured = []
    for j in range(answers.shape[1]):
        known = answers[:, j] >= 0
        y, p = answers[known, j], scores[known, j]
        measured.append((average_precision_score(y, p), roc_auc_score(y, p)))
    return np.mean(measured, axis=0)


def torchmetrics(scores, answers):
    pair = torch.from_numpy(scores), torch.from_numpy(answers).long()
    how = {"num_labels": answers.shape[1], "ignore_index": -100, "thresholds": None}
    return multilabel_average_precision(*pair, **how).item(), multilabel_auroc(*pair, **how).item()


def told(metrics):
    return metrics["mAP"], metrics["mAUROC"]


def ways(scores, answers):
    names = [f"label {j}" for j in range(answers.shape[1])]
    return {
        "average_precision and roc_auc": lambda: (
            average_precision(scores, answers).mean(),
            roc_auc(scores, answers).mean(),
        ),
        "trainer_metrics": lambda: told(trainer_metrics(EvalPrediction(scores, answers))),
        "evaluate_scores": lambda: told(evaluate_scores(scores, answers, names)),
        "evaluate_scores, 1000 resamples": lambda: told(evaluate_scores(scores, answers, names, ci=0.95)),
        "torchmetrics": lambda: torchmetrics(scores, answers),
        "scikit-learn loop": lambda: scikit_learn(scores, answers),
    }


def compare(options):
    chosen = ways(*data(options.images, options.labels, options.known))
    times, results = {name: [] for name in chosen}, {}
    for _ in range(options.rounds):
        for name, way in chosen.items():
            start = time.process_time()
            results[name] = way()
            times[name].append(time.process_time() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    ours = medians["average_precision and roc_auc"]
    print(f"{options.images} x {options.labels}, {options.known:.0%} known, median of {options.rounds}")
    for name, median in medians.items():
        ap, auroc = results[name]
        print(f"{name:32} {median:8.3f} s CPU {median / ours:6.1f} x ours   mAP {ap:.6f} mAUROC {auroc:.6f}")


def large(options):
    scores, answers = data(50_000, 9_605, options.known)
    for name, way in list(ways(scores, answers).items())[:3]:
        wall, cpu = time.perf_counter(), time.process_time()
        ap, auroc = way()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{name:32} {wall:6.1f} s {cpu:6.1f} s CPU, peak so far {peak:.2f} GiB   mAP {ap:.6f} mAUROC {auroc:.6f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--labels", type=int, default=400)
    parser.add_argument("--known", type=float, default=0.3)
    parser.add_argument("--large", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (large if options.large else compare)(options)


if __name__ == "__main__":
    main()
