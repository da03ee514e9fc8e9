"""Metrics of known entries for Hugging Face evaluate, a module each: `evaluate.load(path("multilabel_f1"))`.

All take `predictions`, one list of scores per image, and `references`, one list of 1, 0 or -100 (unknown) per image.
They keep every entry in evaluate's cache; where speed counts, call `halflabel.metrics`, as they do.
"""

from pathlib import Path

from ...model.errors import HalflabelError, did_you_mean

NAMES = ("multilabel_average_precision", "multilabel_roc_auc", "multilabel_f1")


def path(name: str) -> str:
    """Return what `evaluate.load` and `evaluate.combine` take: the path of an installed module.

    Args:
        name: One of `NAMES`.

    Raises:
        HalflabelError: If there is no such module; the nearest names are shown.
    """
    if name not in NAMES:
        raise HalflabelError(f"no evaluate module {name!r}{did_you_mean(name, NAMES)}")
    return str(Path(__file__).parent / name)
