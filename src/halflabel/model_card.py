"""The model card: a pure function of what a run saved."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from .decision_report import decision_notes
from .decisions import DecisionRule, yes_from
from .errors import shortlist
from .labels import LabelCounts

_TEMPLATE = Path(__file__).with_name("card_template.md.jinja")


def number(value: float | None) -> str:
    """Return three decimals, or the word for None, which stands for a measure that is not defined."""
    return "undefined" if value is None else f"{value:.3f}"


def _value(metrics: Mapping[str, Any], label: str, measure: str) -> str:
    return number(metrics["labels"][label][measure]) if metrics.get("split") else "not measured"


def _cell(text: str) -> str:
    """Escape what would break a Markdown table or start HTML."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("|", "\\|")
    return " ".join(escaped.split())


def _interval(metrics: Mapping[str, Any], label: str) -> str:
    ends = metrics["labels"][label].get("AP_interval") if metrics.get("split") else None
    return "" if ends is None or None in ends else f" ({number(ends[0])} to {number(ends[1])})"


def render_card(
    name: str,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, Any],
    counts: LabelCounts,
    label_names: Sequence[str],
    rule: DecisionRule,
    repository: str | None = None,
) -> str:
    """Render the card of a trained model.

    Args:
        name: The recipe's name, the card's title.
        recipe: The resolved recipe.
        metrics: The content of `metrics.json`.
        counts: What was known in training.
        label_names: The labels, in order.
        rule: The model's decision rule.
        repository: What the usage block loads from; None: the output folder.
    """
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False)
    environment.filters.update(
        number=number, shortlist=shortlist, value=_value, cell=_cell, yes_from=yes_from, interval=_interval
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        name=name,
        recipe=recipe,
        recipe_text=yaml.safe_dump(dict(recipe), sort_keys=False, allow_unicode=True),
        metrics={"unknown_as_negative": None, "undefined_labels": [], "bootstrap": None, **metrics},
        rule=rule,
        notes=decision_notes(rule, label_names),
        counts=counts,
        labels=list(label_names),
        repository=repository or str(recipe["output_dir"]),
    )
