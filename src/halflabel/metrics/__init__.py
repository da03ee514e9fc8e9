"""What known entries tell of scores: ranking, decisions, calibration, intervals and paired comparison."""

from .calibration_metrics import brier_score, calibration_error, log_loss
from .known_scores import mean_defined
from .measures import evaluate_scores, known_loss, trainer_metrics
from .paired_comparison import Comparison, compare_scores
from .ranking_metrics import average_precision, micro_average_precision, roc_auc
from .streaming_metrics import MetricAccumulator
from .threshold_metrics import decision_summary, f_score, precision, recall

__all__ = [
    "Comparison",
    "MetricAccumulator",
    "average_precision",
    "brier_score",
    "calibration_error",
    "compare_scores",
    "decision_summary",
    "evaluate_scores",
    "f_score",
    "known_loss",
    "log_loss",
    "mean_defined",
    "micro_average_precision",
    "precision",
    "recall",
    "roc_auc",
    "trainer_metrics",
]
