"""The model card: a pure function of what a run saved."""

import json
import re
import shlex
from pathlib import Path

import jinja2

from ..decide.report import decision_notes, number
from ..model.decisions import yes_from
from .card_metadata import MOST_LABELS, card_metadata
from .card_record import RunRecord, escape
from .card_text import annotation_facts, interval_text, limits, mean_facts, recipe_text, training_facts

_TEMPLATE = Path(__file__).with_name("card_template.md.jinja")
EXAMPLES = "examples.png"


def render_card(record: RunRecord) -> str:
    """Render the card of a trained model: metadata in YAML, then Markdown. Label names and paths stay what they are.

    Measures of decisions are told only where they were taken with the thresholds and calibration that the model has.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # it is Markdown, which `escape` knows
    )  # fmt: skip
    environment.filters.update(escape=escape, quoted=_quote, shell=shlex.quote, fence=_fence)
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        record=record,
        metadata=card_metadata(record).to_yaml(),
        table=_table(record),
        more_labels=max(0, len(record.label_names) - MOST_LABELS),
        means=list(mean_facts(record)) if record.is_measured else [],
        notes=decision_notes(record.rule, record.label_names),
        training=list(training_facts(record)),
        annotation=list(annotation_facts(record)),
        limits=list(limits(record)),
        recipe=recipe_text(record.recipe),
        plots=[path for path in record.pictures if path != EXAMPLES],
    )


def _table(record: RunRecord) -> list[list[str]]:
    """Return a row of cells per label, after one of headings."""
    counts, decided = record.counts, record.rule_is_measured
    heads = ["label", "known in training", "yes in training"]
    if record.is_measured:
        heads += [f"{answer} in {record.metrics['split']}" for answer in ("known", "yes")] + ["AP", "AUROC"]
    heads += ["yes from score", *(["precision", "recall", "ECE"] if decided else [])]
    table = [heads]
    for i, name in enumerate(record.label_names[:MOST_LABELS]):
        cells = [escape(name), str(counts.known[i]), str(counts.positive[i])]
        row = record.metrics["labels"][name] if record.is_measured else {}
        if row:
            ap = number(row["AP"]) + interval_text(row.get("AP_interval"))
            cells += [str(row["known"]), str(row["positives"]), ap, number(row["AUROC"])]
        cells.append(yes_from(record.rule.thresholds[i]))
        table.append(cells + ([number(row[measure]) for measure in ("precision", "recall", "ECE")] if decided else []))
    return table


def _quote(text: str) -> str:
    """Return a text as a Python literal."""
    return json.dumps(text, ensure_ascii=False)


def _fence(text: str) -> str:
    """Return a code fence that nothing in the text ends."""
    return "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
