"""What a run left behind, as far as a model's card tells of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from ..model.decisions import DecisionRule
from ..model.errors import shortlist
from ..model.labels import LabelCounts

_MARKUP = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]~|$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LINKS = {"://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}


@dataclass(frozen=True)
class RunRecord:
    """All that a card is made of.

    Attributes:
        name: The recipe's name.
        recipe: The resolved recipe, the content of `recipe.yaml`.
        metrics: The content of `metrics.json`.
        counts: What was known in training.
        label_names: The labels, in order.
        rule: The model's decision rule.
        datasets: Which sources of the recipe are data sets of the Hub.
        pictures: The pictures beside the card, like `plots/coverage.png`.
        repository: The Hub repository that usage blocks load from; None: the recipe's output folder.
    """

    name: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, Any]
    counts: LabelCounts
    label_names: Sequence[str]
    rule: DecisionRule
    datasets: Sequence[str] = ()
    pictures: Sequence[str] = ()
    repository: str | None = None

    @property
    def title(self) -> str:
        """What the model is called: as its repository, or as its recipe."""
        return self.repository.rsplit("/", 1)[-1] if self.repository else self.name

    @property
    def location(self) -> str:
        """Where the usage blocks load from."""
        return self.repository or str(self.recipe["output_dir"])

    @property
    def is_measured(self) -> bool:
        """Whether there is a result on pictures that were not trained on."""
        return bool(self.metrics.get("split"))

    @property
    def rule_is_measured(self) -> bool:
        """Whether the measures are of the scores and decisions that the model gives today."""
        rule = self.rule
        mine = zip(rule.thresholds, rule.scale, rule.shift, strict=True)
        return self.is_measured and all(
            (row["threshold"], row.get("scale", scale), row.get("shift", shift)) == (threshold, scale, shift)
            for row, (threshold, scale, shift) in zip(self.metrics["labels"].values(), mine, strict=True)
        )

    @property
    def measured_sources(self) -> list[str]:
        """What the measured pictures came from: where `evaluate` measured last, or the recipe's sources."""
        return source_titles(self.metrics.get("data") or self.recipe["data"])


def source_titles(data: str | Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Return what the sources of a recipe are called in public."""
    given = [data] if isinstance(data, str | Mapping) else data
    return [str(one.get("name") or public(one["path"])) if isinstance(one, Mapping) else public(one) for one in given]


def public(path: str) -> str:
    """Return a path as it may be told to others: of one that says where things lie on a machine, the last part."""
    windows = PureWindowsPath(path)
    hidden = path.startswith(("/", "~")) or windows.is_absolute() or ".." in windows.parts
    return (windows.name if windows.drive else PurePosixPath(path).name) if hidden else path


def escape(text: object) -> str:
    """Return a text that stays what it is within a line or a table cell of Markdown: no markup, no HTML, no link."""
    line = " ".join(str(text).split()).translate(_MARKUP)
    for mark, entity in _LINKS.items():
        line = line.replace(mark, entity)
    return line


def listed(names: Sequence[str]) -> str:
    """Return the first names, escaped, and a count of the rest."""
    return shortlist(escape(name) for name in names)
