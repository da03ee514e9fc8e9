"""F1 of decisions on known entries, for Hugging Face evaluate."""

from typing import Any

from halflabel.metrics import decision_summary, f_score
from halflabel.metrics.evaluate_modules import common


class MultilabelF1(common.KnownEntryMetric):
    """Precision, recall and F1 of decisions on known entries, per label and averaged."""

    inputs_and_results = """\
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

    def __init__(self, *args: Any, thresholds: Any = 0.5, **kwargs: Any) -> None:  # noqa: ANN401
        """Keep the thresholds; the rest is evaluate's."""
        super().__init__(*args, **kwargs)
        self.thresholds = thresholds

    def _compute(self, predictions: Any, references: Any, thresholds: Any = None) -> dict[str, Any]:  # noqa: ANN401
        given = (predictions, references, self.thresholds if thresholds is None else thresholds)
        return {**decision_summary(*given), **common.summary("macro_F1", "f1", f_score(*given))}
