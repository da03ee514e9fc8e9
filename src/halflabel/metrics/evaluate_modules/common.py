"""What the modules share. They hold `common` and not its class: evaluate takes the first class that a module holds."""

from typing import Any

import datasets
import evaluate
import numpy as np

from ..entries import Floats, mean_defined
from ..report import json_ready

_INPUTS = """
Args:
    predictions: a list of num_labels scores per image; any real numbers, larger means more likely yes.
    references: a list of num_labels answers per image: 1, 0, or -100 for unknown.
"""


class KnownEntryMetric(evaluate.Metric):  # type: ignore[misc]
    """A measure of lists of scores and lists of answers; the first line of a subclass's docstring describes it."""

    inputs_and_results: str

    def _info(self) -> evaluate.MetricInfo:
        rows = {"predictions": "float64", "references": "int8"}
        return evaluate.MetricInfo(
            description=str(self.__doc__),
            citation="",
            inputs_description=_INPUTS + self.inputs_and_results,
            features=datasets.Features({name: datasets.Sequence(datasets.Value(kind)) for name, kind in rows.items()}),
        )


def summary(mean: str, name: str, values: Floats) -> dict[str, Any]:
    """Return the mean of the labels' values, the values, None for an undefined one, and the number of these."""
    return {mean: mean_defined(values), name: json_ready(values), f"undefined_{name}": int(np.isnan(values).sum())}
