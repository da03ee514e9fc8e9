"""How pseudo-labels for unknown entries are made: the keys of a recipe's `pseudo_args`, and their ranges."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..model.errors import HalflabelError, did_you_mean


@dataclass(frozen=True)
class PseudoLabelOptions:
    """How pseudo-labels are made.

    Attributes:
        neighbours: Of an image in the graph.
        confidence: An entry is guessed where its answer has at least this chance, in [0.5, 1).
        rounds: How often a probe is trained on the guesses and guesses again; round r of R may guess at r / R of each
            label's unknown entries, the surest ones.
        folds: In how many parts the known entries are hidden, at least 2.
    """

    neighbours: int = 5
    confidence: float = 0.75
    rounds: int = 2
    folds: int = 5

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> "PseudoLabelOptions":
        """Read the mapping of a recipe.

        Raises:
            HalflabelError: On an unknown name, or a value out of range.
        """
        names = cls.__dataclass_fields__
        for name in given or {}:
            if name not in names:
                raise HalflabelError(
                    f"pseudo_args takes no {name!r}; it takes {', '.join(names)}{did_you_mean(name, names)}"
                )
        options = cls(**(given or {}))
        fine = {
            "neighbours": _is_count(options.neighbours, 1),
            "confidence": _is_share(options.confidence, 0.5),
            "rounds": _is_count(options.rounds, 1),
            "folds": _is_count(options.folds, 2),
        }
        for name, valid in fine.items():
            if not valid:
                raise HalflabelError(f"pseudo_args: {name} is {getattr(options, name)!r}, which is out of its range")
        return options


def _is_count(value: Any, least: int) -> bool:  # noqa: ANN401 - from a file
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_share(value: Any, least: float) -> bool:  # noqa: ANN401 - from a file
    return isinstance(value, int | float) and not isinstance(value, bool) and least <= value < 1
