"""Average precision of known entries, for Hugging Face evaluate."""

from typing import Any

from halflabel.metrics import average_precision
from halflabel.metrics.evaluate_modules import common


class MultilabelAveragePrecision(common.KnownEntryMetric):
    """Average precision per label over its known entries, and its mean (mAP)."""

    inputs_and_results = """Returns:
    mAP: the mean over the labels where average precision is defined; NaN where it is for none.
    average_precision: a list with one number per label; None for one without both a known yes and a known no.
    undefined_average_precision: how many labels that are.
"""

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:  # noqa: ANN401 - lists
        return common.summary("mAP", "average_precision", average_precision(predictions, references))
