"""Average precision of known entries, for Hugging Face evaluate."""

from typing import Any

import evaluate
import numpy as np

from halflabel.metrics.evaluate_modules.common import as_list, metric_info
from halflabel.metrics.measures import average_precision, mean_defined

_RETURNS = """Returns:
    mAP: the mean over the labels where average precision is defined; NaN where it is for none.
    average_precision: a list with one number per label; None for one without both a known yes and a known no.
    undefined_average_precision: how many labels that are.
"""


class MultilabelAveragePrecision(evaluate.Metric):  # type: ignore[misc]
    """`halflabel.metrics.average_precision` and its mean."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Average precision per label over its known entries, and its mean (mAP).", _RETURNS)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:  # noqa: ANN401 - lists
        values = average_precision(predictions, references)
        return {
            "mAP": mean_defined(values),
            "average_precision": as_list(values),
            "undefined_average_precision": int(np.isnan(values).sum()),
        }
