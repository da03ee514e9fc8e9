"""From validation logits and known labels to a decision rule."""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..metrics.entries import Floats, check_pair
from ..model.decisions import DecisionRule, sigmoid
from ..model.errors import HalflabelError, one_of
from ..model.labels import count_labels
from .calibration import fit_shift, fit_sigmoid
from .pooling import MIN_KNOWN, fit_labels, known_entries, scarce_groups
from .thresholds import fit_thresholds, parse_objective

CALIBRATIONS = {
    "platt": partial(fit_sigmoid, shifted=True),
    "temperature": partial(fit_sigmoid, shifted=False),
    "none": None,
}
_FLAT = 1e-3
"""The spread of the scaled logits of a label whose logits say nothing."""


def fit_decisions(
    logits: ArrayLike,
    labels: ArrayLike,
    objective: str = "f1",
    calibration: str = "platt",
) -> DecisionRule:
    """Calibrate the logits of each label, and fit a threshold for an objective on the calibrated scores.

    A label with fewer than `MIN_KNOWN` known positives or negatives takes the scale that fits all such labels together
    (those short of positives and those short of negatives apart), and so for its threshold. Platt's shift is fitted to
    its own known entries also then; without any it is that of the labels together. A label whose logits do not speak
    for yes (a scale of 0 or below) gets nearly the same score everywhere, with Platt's shift the share of yes: the
    order of a label's scores never changes, and no confidence is read out of noise.

    Args:
        logits: Shape (n, num_labels) of a validation split, finite where known.
        labels: Same shape: 1, 0, or below 0 for unknown and uncertain entries.
        objective: See `thresholds.parse_objective`.
        calibration: `"platt"`, `"temperature"` or `"none"`. Platt's shift makes good for losses that move the scores
            (weights of positives, unknown taken as no), and costs little where there is nothing to make good for.

    Raises:
        HalflabelError: On a wrong argument, or where not both a yes and a no are known.
    """
    check_fitting(objective, calibration)
    given, matrix = check_pair(logits, labels)
    counts = count_labels(matrix)
    for answer, count in (("yes", counts.positive), ("no", counts.negative)):
        if not count.any():
            raise HalflabelError(f"no entry is known to be {answer}: decisions are fitted on known yes and known no")
    scale, shift, pooled = _calibrate(given, matrix, calibration)
    scores, probabilities = sigmoid(given * scale + shift), None
    if calibration != "platt":  # what the thresholds promise must not depend on the calibration that is stored
        best = _calibrate(given, matrix, "platt")
        probabilities = sigmoid(given * best[0] + best[1])
    thresholds = fit_thresholds(scores, matrix, objective, probabilities)
    return DecisionRule(
        scale=tuple(scale.tolist()),
        shift=tuple(shift.tolist()),
        thresholds=tuple(thresholds.values.tolist()),
        calibration=calibration,
        objective=objective,
        min_known=MIN_KNOWN,
        known=tuple(counts.known.tolist()),
        positives=tuple(counts.positive.tolist()),
        pooled_calibration=tuple((pooled > 0).tolist()),
        pooled_threshold=tuple(thresholds.pooled.tolist()),
        unmet=tuple(thresholds.unmet.tolist()),
    )


def check_fitting(objective: str, calibration: str) -> None:
    """Refuse arguments that `fit_decisions` does not take, before any work is done."""
    parse_objective(objective)
    one_of(*CALIBRATIONS).check("calibration", calibration)


def _calibrate(logits: NDArray[Any], labels: NDArray[Any], calibration: str) -> Floats:
    """Return scale, shift and whether they are pooled, shape (3, num_labels)."""
    fit = CALIBRATIONS[calibration]
    if fit is None:
        return np.repeat([[1.0], [0.0], [0.0]], labels.shape[1], axis=1)
    (scale, shift), pooled = fit_labels(fit, labels, scarce_groups(labels), logits)
    contrary = scale <= 0
    pooled |= contrary
    for label, (known, answers) in known_entries(np.flatnonzero(pooled), labels, logits):
        if contrary[label]:
            scale[label] = _FLAT / max(known.std() if len(known) else 0, _FLAT)
        if calibration == "platt" and len(known):
            shift[label] = fit_shift(scale[label] * known, answers)
    return np.array([scale, shift, pooled])
