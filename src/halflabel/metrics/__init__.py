"""What known entries tell of scores: ranking, decisions, calibration, intervals and paired comparison."""

from .answers import decision_summary, f_score, precision, recall
from .calibration import brier_score, calibration_error, log_loss
from .comparison import Comparison, compare_scores
from .entries import mean_defined
from .intervals import mean_interval, percentile_interval, resample_ranking, wilson_interval
from .ranking import average_precision, micro_average_precision, roc_auc
from .report import MetricAccumulator, evaluate_scores
from .trainer import BatchMetrics, known_loss, trainer_metrics

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
    "known_loss",
    "log_loss",
    "mean_defined",
    "mean_interval",
    "micro_average_precision",
    "percentile_interval",
    "precision",
    "recall",
    "resample_ranking",
    "roc_auc",
    "trainer_metrics",
    "wilson_interval",
]
