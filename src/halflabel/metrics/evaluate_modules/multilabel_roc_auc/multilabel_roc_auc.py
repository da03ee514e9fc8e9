"""Area under the ROC curve of known entries, for Hugging Face evaluate."""

from typing import Any

import evaluate
import numpy as np

from halflabel.metrics.evaluate_modules.common import as_list, metric_info
from halflabel.metrics.measures import mean_defined, roc_auc

_RETURNS = """Returns:
    mAUROC: the mean over the labels where the area is defined; NaN where it is for none.
    roc_auc: a list with one number per label; None for one without both a known yes and a known no.
    undefined_roc_auc: how many labels that are.
"""


class MultilabelRocAuc(evaluate.Metric):  # type: ignore[misc]
    """`halflabel.metrics.roc_auc` and its mean."""

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Area under the ROC curve per label over its known entries, and its mean.", _RETURNS)

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:  # noqa: ANN401 - lists
        values = roc_auc(predictions, references)
        return {
            "mAUROC": mean_defined(values),
            "roc_auc": as_list(values),
            "undefined_roc_auc": int(np.isnan(values).sum()),
        }
