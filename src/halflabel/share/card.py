"""A model's card: a pure function of the files that a run saved, rendered again whenever they change."""

import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import timm
from huggingface_hub import EvalResult, ModelCardData
from transformers.utils import CONFIG_NAME

from ..data.files import read_yaml, write_whole
from ..data.loading import find_format, parse_sources
from ..decide.report import decision_notes, number
from ..model.configuration_timm_multilabel import TimmMultiLabelConfig
from ..model.decisions import DecisionRule, yes_from
from ..model.errors import HalflabelError, reason_of
from ..model.labels import LabelCounts
from ..model.modeling_timm_multilabel import TAGS
from ..training.keys import DEFAULTS
from ..training.run import METRICS, PLOTS, RECIPE
from .card_text import CardText, escape, interval_text, source_titles

CARD, CARD_DATA, EXAMPLES = "README.md", "card.json", "examples.png"
MOST_LABELS = 100
"""So many labels are told one by one; all are in `metrics.json`."""

_TEMPLATE = Path(__file__).with_name("card_template.md.jinja")
_SAMPLE = "street_scenes"
_ANSWERS = ("positive", "negative", "uncertain")


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
        mine = zip(self.rule.thresholds, self.rule.scale, self.rule.shift, strict=True)
        return self.is_measured and all(
            (row["threshold"], row.get("scale", scale), row.get("shift", shift)) == (threshold, scale, shift)
            for row, (threshold, scale, shift) in zip(self.metrics["labels"].values(), mine, strict=True)
        )

    @property
    def measured_sources(self) -> list[str]:
        """What the measured pictures came from: where `evaluate` measured last, or the recipe's sources."""
        return source_titles(self.metrics.get("data") or self.recipe["data"])

    @property
    def base_model(self) -> str | None:
        """The Hub repository that the backbone's weights came from; None where they came from elsewhere."""
        changed = any(key.startswith(("pretrained", "checkpoint")) for key in self.recipe.get("backbone_args") or {})
        if self.recipe.get("weights") != "hub" or changed:
            return None
        found = timm.get_pretrained_cfg(self.recipe["backbone"], allow_unregistered=True)
        return found.hf_hub_id if found else None


def save_card_data(
    folder: Path, name: str, sources: Sequence[Any], counts: LabelCounts, label_names: tuple[str, ...]
) -> None:
    """Write to `card.json` what the card tells and no other file of the folder holds.

    Args:
        folder: The output folder.
        name: The recipe's name.
        sources: The recipe's.
        counts: What was known in training.
        label_names: The labels, in order.
    """
    on_disk = [one for one in sources if isinstance(one, str | Mapping)]  # and not what a program gave
    parsed = parse_sources(on_disk) if on_disk else []
    hub = [one.path for one in parsed if find_format(one) == "datasets"]
    rows = [getattr(counts, answer).tolist() for answer in _ANSWERS]
    labels = {label: {answer: row[i] for answer, row in zip(_ANSWERS, rows, strict=True)}
              for i, label in enumerate(label_names)}  # fmt: skip
    content = {
        "name": name,
        "repository": None,
        "datasets": [path for path in hub if not os.path.exists(path)],  # noqa: PTH110
        "training": {"images": counts.images, "labels": labels},
    }
    write_whole(folder / CARD_DATA, json.dumps(content, indent=1) + "\n")


def render_folder(folder: str | Path, repository: str | None = None) -> str:
    """Render the card of a model from its output folder; the same files give the same card, byte for byte.

    Args:
        folder: What `halflabel train` wrote, or a copy from the Hub.
        repository: The Hub repository for the usage blocks; None: the one of the last `card`, if any, else the
            recipe's output folder.

    Raises:
        HalflabelError: If a file is missing, or the files do not belong together.
    """
    place = Path(folder)
    try:
        return render_card(_read(place, repository))
    except HalflabelError:
        raise
    except Exception as error:  # the files may hold anything, and rendering stumbles over each thing in its own way
        files, reason = f"{CARD_DATA}, {METRICS} or {RECIPE}", reason_of(error)
        raise HalflabelError(f"{place}: {files} is not as `halflabel train` wrote it: {reason}") from error


def card(folder: str | Path, repository: str | None = None) -> Path:
    """Render the card into `README.md`, and return that file; a repository is remembered in `card.json`.

    Arguments and errors are those of `render_folder`; after an error both files are as they were.
    """
    place = Path(folder)
    text = render_folder(place, repository)
    if repository is not None:
        content = {**json.loads((place / CARD_DATA).read_text(encoding="utf-8")), "repository": repository}
        write_whole(place / CARD_DATA, json.dumps(content, indent=1) + "\n")
    write_whole(place / CARD, text)
    return place / CARD


def is_rendered(folder: str | Path) -> bool:
    """Tell whether `README.md` is what the folder's files render to, so that nobody's words are lost if it is again."""
    try:
        return (Path(folder) / CARD).read_bytes() == render_folder(folder).encode()
    except (HalflabelError, OSError):
        return False


def _read(folder: Path, repository: str | None) -> RunRecord:
    recipe, data, metrics = (_load(folder, name) for name in (RECIPE, CARD_DATA, METRICS))
    if not (folder / CONFIG_NAME).is_file():
        raise HalflabelError(f"{folder} holds no {CONFIG_NAME}: it is not a model's folder")
    config = TimmMultiLabelConfig.from_pretrained(str(folder))
    names = config.label_space.names
    for file, labels in ((CARD_DATA, data["training"]["labels"]), (METRICS, metrics.get("labels", names))):
        if tuple(labels) != names:
            raise HalflabelError(f"{folder}: {file} tells of other labels than {CONFIG_NAME}, so no card can be made")
    rows = data["training"]["labels"].values()
    positive, negative, uncertain = (np.array([row[answer] for row in rows], dtype=np.int64) for answer in _ANSWERS)
    plots = sorted(f"{PLOTS}/{path.name}" for path in (folder / PLOTS).glob("*.png"))
    return RunRecord(
        name=data["name"],
        recipe={**recipe, **{key: value for key, value in DEFAULTS.items() if key not in recipe}},
        metrics={"undefined_labels": [], **metrics},
        counts=LabelCounts(positive + negative, positive, negative, uncertain, data["training"]["images"]),
        label_names=names,
        rule=config.decision_rule,
        datasets=data["datasets"],
        pictures=[*([EXAMPLES] if (folder / EXAMPLES).is_file() else []), *plots],
        repository=repository or data["repository"],
    )


def _load(folder: Path, name: str) -> Any:  # noqa: ANN401 - what a file holds
    path = folder / name
    if not path.is_file():
        raise HalflabelError(f"{folder} holds no {name}: a card is rendered from what `halflabel train` writes")
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path.suffix == ".json" else read_yaml(path)
    except (ValueError, RecursionError) as error:
        if isinstance(error, HalflabelError):
            raise
        raise HalflabelError(f"{path}: cannot be read as JSON ({reason_of(error)})") from error
    if not isinstance(content, dict):
        raise HalflabelError(f"{path} is not a mapping")
    return content


def render_card(record: RunRecord) -> str:
    """Render the card of a trained model: metadata in YAML, then Markdown. Label names and paths stay what they are.

    Measures of decisions are told only where they were taken with the thresholds and calibration that the model has.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
        autoescape=False,  # it is Markdown, which `escape` knows
    )  # fmt: skip
    environment.filters.update(
        escape=escape,
        quoted=lambda text: json.dumps(text, ensure_ascii=False),  # as a Python literal
        shell=shlex.quote,
        fence=lambda text: "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))]),  # nothing in it ends it
    )
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        record=record,
        metadata=_metadata(record).to_yaml(),
        table=_table(record),
        more_labels=max(0, len(record.label_names) - MOST_LABELS),
        notes=decision_notes(record.rule, record.label_names),
        text=CardText(record),
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


def _metadata(record: RunRecord) -> ModelCardData:
    """Return what the Hub reads, files and shows beside the model.

    Of a value that is not known (licence, base model, data set) and a measure that is not defined there is no entry.
    """
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=record.recipe.get("license"),
        base_model=record.base_model,
        datasets=list(record.datasets) or None,
        tags=TAGS,
        metrics=["mAP", "average_precision", "roc_auc"] if record.is_measured else None,
        model_name=record.title,
        eval_results=_results(record) or None,
    )


def _results(record: RunRecord) -> list[EvalResult]:
    if not record.is_measured:
        return []
    metrics, titles = record.metrics, record.measured_sources
    alone = titles[0] if len(titles) == 1 else None
    on: dict[str, Any] = {
        "task_type": "image-classification",
        "task_name": "Multi-label image classification",
        # The Hub wants a type; for data that it does not hold, people write "custom".
        "dataset_type": alone if alone == _SAMPLE or alone in record.datasets else "custom",
        "dataset_name": ", ".join(titles),
        "dataset_split": None if metrics["split"] == "all" else metrics["split"],
    }
    values = [("mAP", "mAP", metrics["mAP"]), ("mAUROC", "mAUROC", metrics["mAUROC"])]
    for label, row in list(metrics["labels"].items())[:MOST_LABELS]:
        values += [("average_precision", f"AP of {label}", row["AP"]), ("roc_auc", f"AUROC of {label}", row["AUROC"])]
    return [
        EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **on)
        for kind, name, value in values
        if value is not None
    ]
