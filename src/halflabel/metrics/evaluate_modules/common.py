"""What the modules share. A class is not shared: evaluate takes the first one that it sees in a module."""

import datasets
import evaluate

from ..known_scores import Floats
from ..metric_report import json_number

_INPUTS = """
Args:
    predictions: a list of num_labels scores per image; any real numbers, larger means more likely yes.
    references: a list of num_labels answers per image: 1, 0, or -100 for unknown.
"""


def metric_info(description: str, more_inputs: str) -> evaluate.MetricInfo:
    """Describe a module of lists of scores and lists of answers."""
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=_INPUTS + more_inputs,
        features=datasets.Features(
            {
                "predictions": datasets.Sequence(datasets.Value("float64")),
                "references": datasets.Sequence(datasets.Value("int8")),
            }
        ),
    )


def as_list(values: Floats) -> list[float | None]:
    """Return numbers that JSON can hold, None for NaN."""
    return [json_number(value) for value in values]
