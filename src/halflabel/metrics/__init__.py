"""What known entries tell of scores: ranking, decisions, calibration, intervals and paired comparison."""

from .answers import decision_summary, f_score, precision, recall
from .calibration import brier_score, calibration_error, log_loss
from .comparison import Comparison, compare_scores
from .ranking import average_precision, roc_auc
from .report import MetricAccumulator, evaluate_scores
from .trainer import BatchMetrics, trainer_metrics

__all__ = [
    "BatchMetrics",
    "Comparison",
    "MetricAccumulator",
    "average_precision",
    "brier_score",
    "calibration_error",
    "compare_scores",
    "decision_summary",
    "evaluate_scores",
    "f_score",
    "log_loss",
    "precision",
    "recall",
    "roc_auc",
    "trainer_metrics",
]
