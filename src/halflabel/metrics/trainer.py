"""What the Trainer is told of the logits of a validation split, and how its logs are told in a line."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import EvalPrediction

from ..model.decisions import check_logits
from ..model.errors import HalflabelError
from .answers import decision_counts, decision_means
from .entries import EntryStore, KnownScores, check_pair, known_scores, mean_defined, ratio
from .ranking import rank

MEASURES = ("mAP", "mAUROC", "known_loss", "undefined_labels", "CF1", "OF1")
"""What `trainer_metrics` returns."""


def trainer_metrics(prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
    """Measure logits on known entries: a `compute_metrics` for the Trainer.

    Args:
        prediction: `predictions` are logits (n, num_labels), `label_ids` the labels.
        compute_result: False where `batch_eval_metrics` gives batch by batch; `MultiLabelTrainer` then measures by a
            `BatchMetrics`, and the stock Trainer must be given one.

    Returns:
        `mAP`, `mAUROC`, `known_loss` (mean binary cross-entropy over all known entries), `undefined_labels` (for how
        many AP is not defined), and `CF1` and `OF1` of the decisions logit >= 0, which is score >= 0.5; NaN where
        undefined.

    Raises:
        HalflabelError: As `entries.check_pair`, if the logit of an unknown entry is not finite, or if this is a batch.
    """
    if not compute_result:
        raise HalflabelError("with batch_eval_metrics give the Trainer compute_metrics=BatchMetrics()")
    return _measure(known_scores(*_check(prediction)))


class BatchMetrics:
    """`trainer_metrics` of a validation split whose logits do not fit in memory, batch by batch.

    `Trainer(compute_metrics=BatchMetrics(), args=TrainingArguments(batch_eval_metrics=True, ...))`: where
    `trainer_metrics` is given the logits of all images and labels at once, this keeps the known entries alone, in 4
    bytes each, and tells the same of them. It serves one Trainer, with `batch_eval_metrics` or without. An evaluation
    that breaks off leaves its entries here; `MultiLabelTrainer` then begins anew, with the stock Trainer call `begin`.
    """

    def __init__(self) -> None:
        """Start with no entry."""
        self.begin()

    def begin(self) -> None:
        """Forget the entries of an evaluation that broke off."""
        self._entries: EntryStore | None = None

    def __call__(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Take in a batch.

        Args:
            prediction: As for `trainer_metrics`, of some images.
            compute_result: Whether it is the last batch: what `trainer_metrics` says of all batches is returned, and
                the next one begins anew. Else nothing is said.
        """
        logits, labels = _check(prediction)
        entries = self._entries or EntryStore(labels.shape[1])
        entries.add(logits, labels)
        self._entries = None if compute_result else entries
        return _measure(entries.known_scores()) if compute_result else {}


def _check(prediction: EvalPrediction) -> tuple[NDArray[Any], NDArray[Any]]:
    logits, labels = check_pair(prediction.predictions, prediction.label_ids)
    check_logits(logits)
    return logits, labels


def _measure(labels: Iterable[KnownScores]) -> dict[str, float]:
    rows = []
    for known in labels:
        against = np.concatenate([known.negatives, -known.positives], dtype=np.float64)
        cost = np.logaddexp(0, against).sum()  # binary cross-entropy
        rows.append((*rank(known), *decision_counts(known, np.float64(0)), cost, len(against)))
    ap, auroc, tp, fp, fn, cost, count = np.array(rows, dtype=np.float64).T
    means = decision_means(tp, fp, fn)
    undefined, known_loss = int(np.isnan(ap).sum()), float(ratio(cost.sum(), count.sum()))
    values = (mean_defined(ap), mean_defined(auroc), known_loss, undefined, means["CF1"], means["OF1"])
    return dict(zip(MEASURES, values, strict=True))


_WORDS = {
    "loss": "training loss",
    "learning_rate": "learning rate",
    "eval_mAP": "validation mAP",
    "eval_mAUROC": "mAUROC",
    "eval_known_loss": "loss",
    "eval_undefined_labels": "undefined labels",
    "train_runtime": "seconds of training",
}
"""What stands in the line of a log; `training_log.json` holds everything."""


def describe_log(logs: Mapping[str, Any]) -> str:
    """Return what the Trainer logs as one line: the epoch, and of its numbers those that one looks at."""
    parts = []
    for key, value in logs.items():
        if key in _WORDS and (value or key != "eval_undefined_labels"):
            shown = value if not isinstance(value, float) else "undefined" if math.isnan(value) else f"{value:.3g}"
            parts.append(f"{_WORDS[key]} {shown}")
    start = f"epoch {logs['epoch']:.4g}: " if "epoch" in logs else ""
    return start + ", ".join(parts)
