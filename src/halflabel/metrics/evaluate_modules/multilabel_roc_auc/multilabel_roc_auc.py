"""Area under the ROC curve of known entries, for Hugging Face evaluate."""

from typing import Any

from halflabel.metrics import roc_auc
from halflabel.metrics.evaluate_modules import common


class MultilabelRocAuc(common.KnownEntryMetric):
    """Area under the ROC curve per label over its known entries, and its mean."""

    inputs_and_results = """Returns:
    mAUROC: the mean over the labels where the area is defined; NaN where it is for none.
    roc_auc: a list with one number per label; None for one without both a known yes and a known no.
    undefined_roc_auc: how many labels that are.
"""

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:  # noqa: ANN401 - lists
        return common.summary("mAUROC", "roc_auc", roc_auc(predictions, references))
