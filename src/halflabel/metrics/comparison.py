"""Which of two models ranks better on the same known entries, and how sure that is."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .entries import Floats, check_pair, mean_defined
from .intervals import check_confidence, mean_over_labels, percentile_interval, resample_ranking
from .ranking import average_precision
from .report import check_names, json_ready


@dataclass(frozen=True)
class Comparison:
    """What `compare_scores` finds. A difference is B minus A, an interval is (low, high), undefined is NaN.

    Attributes:
        ap_a: Average precision of A per label, (num_labels,).
        ap_b: Of B.
        ap_interval: Of the difference, (2, num_labels).
        undefined_resamples: Per label, how many resamples its interval leaves out, (num_labels,).
        map_interval: Of the difference in mAP, (2,).
        ci: The confidence of the intervals.
        samples: The number of resamples.
        images: The number of images.
    """

    ap_a: Floats
    ap_b: Floats
    ap_interval: Floats
    undefined_resamples: NDArray[np.int64]
    map_interval: Floats
    ci: float
    samples: int
    images: int

    @property
    def map_a(self) -> float:
        """The mAP of A: the mean over the labels where average precision is defined."""
        return mean_defined(self.ap_a)

    @property
    def map_b(self) -> float:
        """The mAP of B, over the same labels."""
        return mean_defined(self.ap_b)

    def sentence(self, name_a: str = "A", name_b: str = "B") -> str:
        """Say in plain English which has the higher mAP, where the interval lies on one side of 0."""
        difference, (low, high) = self.map_b - self.map_a, self.map_interval
        if math.isnan(low):
            return f"{name_a} and {name_b} cannot be compared: no label has both a known yes and a known no"
        if low <= 0 <= high:
            interval = f"({100 * self.ci:g} % interval {low:+.3f} to {high:+.3f})"
            return (
                f"no clear difference: the mAP of {name_b} minus that of {name_a} is {difference:+.3f} {interval} "
                f"on {self.images} images"
            )
        better, worse = name_b, name_a
        if high < 0:
            better, worse, difference, low, high = name_a, name_b, -difference, -high, -low
        return (
            f"{better} has a higher mAP than {worse}: {difference:+.3f} "
            f"({100 * self.ci:g} % interval {low:.3f} to {high:.3f}) on {self.images} images"
        )

    def to_dict(self, label_names: Sequence[str]) -> dict[str, Any]:
        """Return all of it for JSON; None stands for what is undefined."""
        labels = {
            name: {
                "AP_A": self.ap_a[i],
                "AP_B": self.ap_b[i],
                "AP_difference": self.ap_b[i] - self.ap_a[i],
                "AP_interval": self.ap_interval[:, i],
                "undefined_resamples": self.undefined_resamples[i],
            }
            for i, name in enumerate(check_names(label_names, len(self.ap_a)))
        }
        found: dict[str, Any] = json_ready(
            {
                "mAP_A": self.map_a,
                "mAP_B": self.map_b,
                "mAP_difference": self.map_b - self.map_a,
                "mAP_interval": self.map_interval,
                "ci": self.ci,
                "samples": self.samples,
                "images": self.images,
                "labels": labels,
            }
        )
        return found


def compare_scores(
    scores_a: ArrayLike,
    scores_b: ArrayLike,
    labels: ArrayLike,
    ci: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
    groups: NDArray[np.intp] | None = None,
) -> Comparison:
    """Compare two models' average precision on the same known entries, by a paired bootstrap over images.

    Both are measured on the same resamples, so what makes a resample hard for both cancels in the difference. Intervals
    are percentile intervals; a label's leaves out the resamples in which it has no known yes or no known no, and
    counts them.

    Args:
        scores_a: As for `average_precision`.
        scores_b: Same shape; those of the other model.
        labels: As for `average_precision`.
        ci: The confidence of the intervals, above 0 and below 1.
        samples: The number of resamples.
        seed: Of the draws.
        groups: Of the images, drawn as wholes; see `intervals.resample_ranking`.

    Raises:
        HalflabelError: On shapes that differ, other label values, a score that is not finite, or another ci or samples.
    """
    check_confidence(ci)
    (a, matrix), (b, _) = check_pair(scores_a, labels), check_pair(scores_b, labels)
    resampled = [resample_ranking(scores, matrix, samples, seed, groups).average_precision for scores in (a, b)]
    difference = resampled[1] - resampled[0]
    return Comparison(
        ap_a=average_precision(a, matrix),
        ap_b=average_precision(b, matrix),
        ap_interval=percentile_interval(difference, ci),
        undefined_resamples=np.isnan(difference).sum(axis=0),
        map_interval=percentile_interval(mean_over_labels(difference), ci),
        ci=ci,
        samples=samples,
        images=len(matrix),
    )
