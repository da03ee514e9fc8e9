"""F1 of decisions on known entries, for Hugging Face evaluate."""

from collections.abc import Sequence
from typing import Any

import evaluate
import numpy as np

from halflabel.metrics.evaluate_modules.common import as_list, metric_info
from halflabel.metrics.measures import decision_summary, f_score

_MORE = """\
    thresholds: a number, or one per label; decided yes is score >= threshold. Left out: those that the module was
        loaded with, evaluate.load(path, thresholds=0.4), or 0.5. For evaluate.combine, load the module with them:
        what the combination's compute is given goes to every module.
Returns:
    CP, CR, CF1: the means of the labels' precision and recall (macro), each where it is defined; their harmonic mean.
    OP, OR, OF1: precision, recall and F1 of the known entries of all labels together (micro).
    macro_F1: the mean of the labels' F1, where it is defined.
    f1: a list with one number per label; None for one without a known yes or an entry decided yes.
    undefined_f1: how many labels that are.
"""


class MultilabelF1(evaluate.Metric):  # type: ignore[misc]
    """`halflabel.metrics.f_score` and `decision_summary`."""

    def __init__(self, *args: Any, thresholds: float | Sequence[float] = 0.5, **kwargs: Any) -> None:  # noqa: ANN401
        """Keep the thresholds; the rest is evaluate's."""
        super().__init__(*args, **kwargs)
        self.thresholds = thresholds

    def _info(self) -> evaluate.MetricInfo:
        return metric_info("Precision, recall and F1 of decisions on known entries, per label and averaged.", _MORE)

    def _compute(
        self,
        predictions: Any,  # noqa: ANN401 - lists
        references: Any,  # noqa: ANN401
        thresholds: float | Sequence[float] | None = None,
    ) -> dict[str, Any]:
        chosen = self.thresholds if thresholds is None else thresholds
        values = f_score(predictions, references, chosen)
        return {
            **decision_summary(predictions, references, chosen),
            "f1": as_list(values),
            "undefined_f1": int(np.isnan(values).sum()),
        }
