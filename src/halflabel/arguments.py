"""Recipes: which keys there are, and how default < recipe file < command line come together."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from .errors import HalflabelError, did_you_mean
from .heads import check_head
from .loss_arguments import check_loss, check_normalizer
from .policies import parse_policy

_POLICY = "ignore, negative, positive, a target from 0 to 1, or label -> one of these"
PACKAGE_FOLDER = Path(__file__).parent
BAD_IMAGES = ("error", "skip")
_NOT_STREAMING = ("cache_features", "max_train_images", "keep_labels", "hide_per_label", "hide_groups", "hide_protocol",
                  "image_folder")  # fmt: skip
_EXCLUDING = {"freeze_backbone": ("freeze", "unfreeze_every", "lora_rank"), "lora_rank": ("freeze", "unfreeze_every")}
INFORMATION = "versions"  # a key of resolved recipes that is not a setting

# Where this package's defaults differ from those of TrainingArguments.
TRAINING_DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 1,
    "metric_for_best_model": "mAP",
    "greater_is_better": True,
    "remove_unused_columns": False,
    "per_device_eval_batch_size": 32,
    "dataloader_pin_memory": torch.cuda.is_available(),
}


@dataclass
class RecipeArguments:
    """The keys of a recipe beside those of `transformers.TrainingArguments`."""

    data: list[str] = field(
        metadata={"help": "sources: files, folders, data sets of the Hub, or street_scenes, the embedded sample"}
    )
    backbone: str = field(metadata={"help": "a timm name, like resnet50.a1_in1k"})
    image_folder: str | None = field(default=None, metadata={"help": "what file names in the table are relative to"})
    contradictions: str = field(
        default="error", metadata={"help": "an entry that sources disagree about: error, unknown, first"}
    )
    labels: list[str] | None = field(default=None, metadata={"help": "the labels to use; default: all"})
    streaming: bool = field(default=False, metadata={"help": "read training pictures as they come; needs max_steps"})
    shuffle_buffer: int = field(default=1000, metadata={"help": "pictures of a stream from which the next is drawn"})
    bad_images: str = field(
        default="error", metadata={"help": "a picture that cannot be read: error, or skip and list"}
    )
    fast_decode: bool = field(default=True, metadata={"help": "decode a JPEG no larger than the transform needs"})
    max_train_images: int | None = field(default=None, metadata={"help": "use only the first so many"})
    max_test_images: int | None = field(default=None, metadata={"help": "use only the first so many"})
    validation_share: float = field(default=0.15, metadata={"help": "share of train to validate on if none is given"})
    test_share: float = field(default=0.2, metadata={"help": "share to test on where the table names no splits"})
    strict: bool = field(default=False, metadata={"help": "a label without known training entries is an error"})
    hide_protocol: str = field(default="random", metadata={"help": "how known labels are hidden, to simulate unknowns"})
    keep_labels: float | None = field(default=None, metadata={"help": "share of known training entries kept (random)"})
    hide_per_label: int | None = field(default=None, metadata={"help": "positives and negatives kept (per_label)"})
    hide_groups: str | None = field(default=None, metadata={"help": "annotator group -> labels it answers (by_group)"})
    hide_seed: int | None = field(default=None, metadata={"help": "seed of hiding; default: seed"})
    unknown: str = field(default="ignore", metadata={"help": f"what an unknown entry is trained on: {_POLICY}"})
    uncertain: str = field(default="ignore", metadata={"help": f"what an uncertain entry is trained on: {_POLICY}"})
    uncertain_values: list[str] | None = field(default=None, metadata={"help": "table cells that mean uncertain"})
    compare_unknown_as_negative: bool = field(
        default=False, metadata={"help": "also train with unknown taken as negative, and show both results"}
    )
    weights: str = field(default="hub", metadata={"help": "hub, installed, the path of a file, or none"})
    backbone_args: str | None = field(default=None, metadata={"help": "keyword arguments of timm.create_model"})
    head: str = field(default="linear", metadata={"help": "what is put on the backbone"})
    head_args: str | None = field(default=None, metadata={"help": "keyword arguments of the head"})
    loss: str = field(default="bce", metadata={"help": "the loss per entry"})
    loss_args: str | None = field(default=None, metadata={"help": "keyword arguments of the loss"})
    pos_weight: str | None = field(
        default=None, metadata={"help": "factor of the positive term: a number, label -> number, or auto"}
    )
    label_weight: str | None = field(default=None, metadata={"help": "factor of a label's loss: label -> number"})
    normalizer: str = field(default="labels", metadata={"help": "labels, images or tasks: what the loss is divided by"})
    freeze_backbone: bool = field(default=False, metadata={"help": "train the head only"})
    freeze: list[str] | None = field(
        default=None, metadata={"help": "backbone modules to keep: names, globs, or how many first layer groups"}
    )
    unfreeze_every: float | None = field(
        default=None, metadata={"help": "the head first, then one more layer group every so many epochs"}
    )
    layer_decay: float = field(default=1.0, metadata={"help": "rate of a layer group relative to the one above it"})
    head_lr_multiplier: float = field(default=1.0, metadata={"help": "factor of the head's learning rate"})
    ema_decay: float | None = field(
        default=None, metadata={"help": "evaluate and save a moving average of the weights, like 0.999"}
    )
    lora_rank: int | None = field(default=None, metadata={"help": "train low-rank adapters of this rank (extra lora)"})
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of the adapters; default: twice the rank"})
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "layers to adapt; default: attention and mlp linear layers"}
    )
    cache_features: bool = field(default=False, metadata={"help": "each image through the frozen backbone once"})
    views: int = field(default=1, metadata={"help": "augmented views of each image whose features are cached"})
    feature_cache: str | None = field(default=None, metadata={"help": "where cached features lie, or none: in memory"})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "evaluations without a better mAP"})

    def __post_init__(self) -> None:
        """Parse the mappings and check what needs no data."""
        self.data = [_mapping("data", one) if str(one).lstrip().startswith("{") else one for one in self.data]  # type: ignore[misc]
        for name in ("backbone_args", "head_args", "hide_groups", "loss_args"):
            setattr(self, name, _mapping(name, getattr(self, name)))
        for name in ("unknown", "uncertain", "pos_weight", "label_weight"):
            if str(getattr(self, name)).lstrip().startswith("{"):
                setattr(self, name, _mapping(name, getattr(self, name)))
        for name in ("unknown", "uncertain"):
            policy = getattr(self, name)
            parse_policy(name, policy, list(policy) if isinstance(policy, dict) else ["any"])
        check_head(self.head, self.head_args)  # type: ignore[arg-type]
        check_loss(self.loss, self.loss_args)  # type: ignore[arg-type]
        check_normalizer(self.normalizer)
        if self.bad_images not in BAD_IMAGES:
            nearest = did_you_mean(self.bad_images, BAD_IMAGES)
            raise HalflabelError(f"bad_images: {self.bad_images!r} is none of {', '.join(BAD_IMAGES)}{nearest}")
        if self.streaming:
            self._check_streaming()
        for name, others in _EXCLUDING.items():
            for other in others:
                if getattr(self, name) not in (None, False) and getattr(self, other) not in (None, False):
                    raise HalflabelError(f"{name} does not go with {other}: each says which weights are trained")
        for name in ("lora_alpha", "lora_targets"):
            if getattr(self, name) is not None and self.lora_rank is None:
                raise HalflabelError(f"{name} needs lora_rank, like 8")
        if self.views < 1 or (self.views > 1 and not self.cache_features):
            raise HalflabelError(f"views is {self.views}: it is at least 1, and more than 1 only with cache_features")
        if self.cache_features and not self.freeze_backbone:
            raise HalflabelError(
                "cache_features needs freeze_backbone: true; a backbone in training changes its features"
            )

    def _check_streaming(self) -> None:
        """Refuse what needs the whole training split at hand."""
        if self.shuffle_buffer < 1:
            raise HalflabelError(f"shuffle_buffer is {self.shuffle_buffer}, expected at least 1")
        for name in _NOT_STREAMING:
            if getattr(self, name) != self.__dataclass_fields__[name].default:
                raise HalflabelError(f"{name} does not go with streaming, which never holds the whole training split")


def _mapping(name: str, value: Any) -> dict[str, Any] | None:  # noqa: ANN401 - JSON text or a mapping
    if value is None or isinstance(value, dict):
        return value
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise HalflabelError(f"{name}: {value!r} is not a mapping in JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise HalflabelError(f"{name}: {value!r} is not a mapping")
    return parsed


@dataclass(frozen=True)
class Recipe:
    """A parsed recipe: its own settings, the Trainer's, and the keys that were set."""

    name: str
    settings: RecipeArguments
    training: TrainingArguments
    given: dict[str, Any]

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(str(self.training.output_dir))


class _Parser(HfArgumentParser):
    """Transformers' parser, whose complaints become one line."""

    def error(self, message: str) -> NoReturn:
        raise HalflabelError(message)


def recipe_folder() -> Path:
    """Return where the shipped recipes lie: inside an installed package, or beside `src` in a checkout."""
    installed = PACKAGE_FOLDER / "recipes"
    return installed if installed.is_dir() else PACKAGE_FOLDER.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name: the file name without its ending."""
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path or by shipped name.

    Raises:
        HalflabelError: If there is none; the nearest shipped names are shown.
    """
    if Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    if name in shipped:
        return shipped[name]
    nearest = did_you_mean(name, shipped)
    raise HalflabelError(f"recipe {name!r} is neither a file nor a shipped recipe ({', '.join(shipped)}){nearest}")


def parse_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and the command line's overrides.

    Args:
        name: A path or a shipped name.
        overrides: `--key value ...`, stronger than the file, which is stronger than the defaults.

    Raises:
        HalflabelError: On a file that is not a flat YAML mapping, an unknown key (with the nearest one), or a value
            of the wrong type.
    """
    path = find_recipe(name)
    parser = _Parser(
        [RecipeArguments, TrainingArguments],  # type: ignore[list-item]
        allow_abbrev=False,
        add_help=False,
    )
    keys = {action.dest for action in parser._actions}
    from_file = _read_yaml(path, keys)
    arguments = {"output_dir": f"outputs/{path.stem}", **TRAINING_DEFAULTS}
    arguments.update({key: value for key, value in from_file.items() if value is not None})
    argv = [part for key, value in arguments.items() for part in _as_flags(key, value)]
    extra = _complete_flags(overrides, keys)
    try:
        settings, training = parser.parse_args_into_dataclasses([*argv, *extra])
    except argparse.ArgumentError as error:
        raise HalflabelError(f"{path}: {error}") from error
    except HalflabelError as error:
        raise HalflabelError(f"{path}: {error}") from error
    except (ValueError, TypeError, ImportError) as error:  # TrainingArguments checks itself
        raise HalflabelError(f"{path}: {str(error).splitlines()[0]}") from error
    if settings.streaming and training.max_steps <= 0:
        raise HalflabelError(f"{path}: streaming needs max_steps, since a stream has no length: --max_steps 10000")
    training.report_to = [part for name in training.report_to or () for part in name.split(",")]
    given = {*arguments, *(part[2:] for part in extra if part.startswith("--"))}
    values = {**{f.name: getattr(settings, f.name) for f in fields(settings)}, **_plain(training, given)}
    return Recipe(path.stem, settings, training, values)


def _read_yaml(path: Path, keys: set[str]) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise HalflabelError(f"{path}: not a YAML file ({reason[:150]})") from error
    if not isinstance(content, dict):
        raise HalflabelError(f"{path}: a recipe is a flat mapping of keys to values")
    content.pop(INFORMATION, None)
    if content.get("weights", "") is None:
        content["weights"] = "none"  # elsewhere null is the default; here it says: random weights
    for key in content:
        if key not in keys:
            raise HalflabelError(f"{path}: unknown key {key!r}{did_you_mean(key, keys)}")
    return content


def _as_flags(key: str, value: Any) -> list[str]:  # noqa: ANN401 - a YAML value
    if isinstance(value, Mapping):
        return [f"--{key}", json.dumps(value)]
    if isinstance(value, list) and key == "report_to":
        return [f"--{key}={','.join(value) or 'none'}"]
    if isinstance(value, list):
        return [f"--{key}", *(json.dumps(item) if isinstance(item, Mapping) else str(item) for item in value)]
    return [f"--{key}={value}"]


def _complete_flags(overrides: Sequence[str], keys: set[str]) -> list[str]:
    """Check the overrides' keys; `--resume_from_checkpoint` alone means the last checkpoint."""
    flags: list[str] = []
    for position, part in enumerate(overrides):
        if part.startswith("--"):
            key = part[2:].split("=", 1)[0].replace("-", "_")
            if key not in keys:
                raise HalflabelError(f"unknown option --{key}{did_you_mean(key, keys)}")
            part = f"--{key}" + part[2 + len(key) :]
        flags.append(part)
        following = overrides[position + 1] if position + 1 < len(overrides) else "--"
        if part == "--resume_from_checkpoint" and following.startswith("--"):
            flags.append("true")
    return flags


def _plain(training: TrainingArguments, given: set[str]) -> dict[str, Any]:
    """Return the given training arguments as plain YAML values."""
    known = {f.name for f in fields(training)}
    values = training.to_dict()
    values["report_to"] = ",".join(training.report_to or ()) or "none"  # TrainingArguments turned a name into a list
    return {key: values[key] for key in sorted({key.split("=")[0] for key in given} & known | {"seed"})}
