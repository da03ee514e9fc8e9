"""Recipes: what a run is made of, as typed and frozen settings; default < recipe file < what the caller says."""

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, NoReturn, get_args, get_origin

import torch
from transformers import HfArgumentParser, TrainingArguments

from ..data.strict_yaml import read_yaml
from ..decide.decision_fitting import check_fitting
from ..metrics.intervals import check_confidence
from ..model.errors import (
    HalflabelError,
    did_you_mean,
    is_own,
    missing_part,
    number,
    one_of,
    part_name,
    reason_of,
)
from ..model.heads import find_head
from ..model.labels import LabelSpace
from ..model.losses import find_loss
from ..model.objective import check_normalizer
from .guesses import PseudoLabelOptions
from .keys import GROUPS, SHORT, DataKeys, DecisionKeys, ModelKeys, TrainingKeys

LAUNCHERS = "accelerate"  # the folder of configurations for `accelerate launch`, which are no recipes
INFORMATION = "versions"  # a key of resolved recipes that is not a setting
REMOVED = {
    "teacher_weight": None, "teacher_ramp": 0.3, "teacher_share": 0.8, "mixing": None, "mixing_args": None,
    "unfreeze_every": None, "relations": False,
}  # fmt: skip
"""Keys of earlier versions, and the value that said nothing: what they did was measured not to help."""

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
_COUNT = number(1, whole=True)
_ARGUMENT_RANGES = {
    "per_device_train_batch_size": _COUNT, "per_device_eval_batch_size": _COUNT, "gradient_accumulation_steps": _COUNT,
    "dataloader_num_workers": number(0), "num_train_epochs": number(0), "max_steps": number(-1),
    "learning_rate": number(0, 1e6), "weight_decay": number(0, 1e6), "seed": number(0, 2**32 - 1),
}  # fmt: skip


_GROUP_OF = {key.name: name for name, group in GROUPS.items() for key in fields(group)}
_OWN = {key.name: key for group in GROUPS.values() for key in fields(group)}
_ARGUMENTS = {key.name for key in fields(TrainingArguments) if key.init}


@dataclass(frozen=True)
class Recipe:
    """What a run is made of. Nothing changes it; `change` returns another one.

    Attributes:
        name: The file's name without its ending.
        data: Pictures, and what is known of them.
        model: The network and its objective.
        training: What is trained, and from what.
        decisions: Thresholds, and what is measured and written.
        arguments: The Trainer's; who gives them to a Trainer gives it a copy.
        said: The keys that the file or the caller gave a value.
    """

    name: str
    data: DataKeys
    model: ModelKeys
    training: TrainingKeys
    decisions: DecisionKeys
    arguments: TrainingArguments
    said: frozenset[str]

    def __post_init__(self) -> None:
        """Check what needs no data."""
        for key in _OWN.values():
            value = getattr(getattr(self, _GROUP_OF[key.name]), key.name)
            least, choices = key.metadata["least"], key.metadata["choices"]
            if value is not None and (least is not None or choices):
                (one_of(*choices) if choices else number(least)).check(key.name, value)
        for name, kind in _ARGUMENT_RANGES.items():
            kind.check(name, getattr(self.arguments, name))
        _check_model(self.model)
        _check_data(self)
        _check_training(self)
        check_fitting(self.decisions.decide or "f1", self.decisions.calibration)
        if self.decisions.ci is not None:
            check_confidence(self.decisions.ci)

    @property
    def folder(self) -> Path:
        """Where the run writes."""
        return Path(str(self.arguments.output_dir))

    @property
    def resumes(self) -> bool:
        """Whether it goes on from the last checkpoint in its folder."""
        return self.arguments.resume_from_checkpoint in ("true", "True", True)

    def plain(self) -> dict[str, Any]:
        """Return what was said and our defaults, key by key, as YAML can hold it: the same run again.

        Where a run is pushed to, and by whose token, is nothing for who runs it again. What a program gave, like a loss
        of its own, is named.
        """
        own = {key: getattr(getattr(self, group), key) for key, group in _GROUP_OF.items()}
        given = self.said | TRAINING_DEFAULTS.keys() | {"output_dir", "seed"}
        kept = {key for key in given & _ARGUMENTS if key != "push_to_hub" and not key.startswith("hub_")}
        values = self.arguments.to_dict() | {"report_to": ",".join(self.arguments.report_to or ()) or "none"}
        return {**{key: _name(value) for key, value in own.items()}, **{key: values[key] for key in sorted(kept)}}

    def change(self, **keys: Any) -> "Recipe":  # noqa: ANN401
        """Return a recipe with other values of its own keys and of the Trainer's."""
        arguments = copy.copy(self.arguments)
        groups = {name: getattr(self, name) for name in GROUPS}
        for key, value in keys.items():
            if key in _GROUP_OF:
                groups[_GROUP_OF[key]] = replace(groups[_GROUP_OF[key]], **{key: value})
            else:
                setattr(arguments, key, value)
        return replace(self, arguments=arguments, said=self.said | keys.keys(), **groups)


POLICIES = ("ignore", "negative", "positive")
Policy = str | float | Mapping[str, str | float]


def parse_policy(key: str, policy: Any, label_names: Sequence[str]) -> list[float | None]:  # noqa: ANN401 - from a file
    """Return the target of each label.

    Args:
        key: Which policy it is, for errors: `unknown` or `uncertain`.
        policy: `ignore`, `negative`, `positive` or a soft target in 0..1, for all labels; or label name -> one of
            these, where a label that is not named is ignored.
        label_names: The labels.

    Returns:
        Per label a target in 0..1, or None for ignore.

    Raises:
        HalflabelError: On another word or number, or a label that does not exist.
    """
    if isinstance(policy, Mapping):
        space = LabelSpace(label_names)
        targets: list[float | None] = [None] * len(space)
        for name, one in policy.items():
            targets[space.index(name)] = _target(f"{key}, label {name!r}", one)
        return targets
    return [_target(key, policy)] * len(label_names)


def _target(key: str, policy: Any) -> float | None:  # noqa: ANN401 - from a file
    words: dict[str, float | None] = {"ignore": None, "negative": 0.0, "positive": 1.0}
    if policy in words:
        return words[policy]
    try:
        target = float(policy)
    except (TypeError, ValueError):
        target = -1.0
    if not 0 <= target <= 1:
        nearest = did_you_mean(str(policy), POLICIES)
        raise HalflabelError(f"{key}: {policy!r} is none of {', '.join(POLICIES)} or a target from 0 to 1{nearest}")
    return target


def _check_model(model: ModelKeys) -> None:
    find_head(model.head).check_arguments(model.head_args, part_name(model.head))
    find_loss(model.loss).check(part_name(model.loss), model.loss_args or {})
    if is_own(model.backbone):
        raise missing_part("backbone", model.backbone)
    check_normalizer(model.normalizer)


def _check_data(recipe: Recipe) -> None:
    data = recipe.data
    for name, policy in (("unknown", data.unknown), ("uncertain", data.uncertain)):
        parse_policy(name, policy, list(policy) if isinstance(policy, Mapping) else ["any"])
    if not data.streaming:
        return
    if recipe.arguments.max_steps <= 0:
        raise HalflabelError("streaming needs max_steps, since a stream has no length: --max_steps 10000")
    whole = ("cache_features", "max_train_images", "keep_labels", "hide_per_label", "hide_groups", "hide_protocol",
             "image_folder", "probe_first", "pseudo_labels")  # fmt: skip
    for name in whole:
        if getattr(getattr(recipe, _GROUP_OF[name]), name) != _OWN[name].default:
            raise HalflabelError(f"{name} does not go with streaming, which never holds the whole training split")


def _check_training(recipe: Recipe) -> None:
    training = recipe.training
    excluding = {"freeze_backbone": ("freeze", "lora_rank", "probe_first"), "lora_rank": ("freeze",)}
    for name, others in excluding.items():
        for other in others:
            if getattr(training, name) not in (None, False) and getattr(training, other) not in (None, False):
                raise HalflabelError(f"{name} does not go with {other}: each says which weights are trained")
    for name in ("lora_alpha", "lora_targets"):
        if getattr(training, name) is not None and training.lora_rank is None:
            raise HalflabelError(f"{name} needs lora_rank, like 8")
    if training.views > 1 and not training.cache_features:
        raise HalflabelError(f"views is {training.views}: it is at least 1, and more than 1 only with cache_features")
    if training.cache_features and not training.freeze_backbone:
        raise HalflabelError("cache_features needs freeze_backbone: true; a backbone in training changes its features")
    PseudoLabelOptions.of(training.pseudo_args)
    if training.pseudo_labels is None:
        if training.pseudo_args is not None:
            raise HalflabelError("pseudo_args needs pseudo_labels: soft")
        return
    loss, unknown = recipe.model.loss, recipe.data.unknown
    for other, given in ((f"unknown: {unknown}", unknown != "ignore"), (f"loss: {loss}", find_loss(loss).uses_unknown)):
        if given:
            raise HalflabelError(f"pseudo_labels does not go with {other}, which is another use of unknown entries")


def recipe_folder() -> Path:
    """Return where the shipped recipes lie: inside an installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[1]
    return package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name: the file name without its ending."""
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml")) if path.parent.name != LAUNCHERS}


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


def parse_recipe(name: str, overrides: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
    """Read a recipe, and what the caller says otherwise.

    Args:
        name: A path or a shipped name.
        overrides: `["--key", "value", ...]` as typed, or keys and values; stronger than the file, which is stronger
            than the defaults.

    Raises:
        HalflabelError: On a file that is not a flat YAML mapping, an unknown key (with the nearest one), or a value
            that is not as its key demands.
    """
    path = find_recipe(name)
    stronger = _known(overrides, "") if isinstance(overrides, Mapping) else _parse_flags(overrides)
    from_file = _read_file(path)
    values = {"output_dir": f"outputs/{path.stem}", **TRAINING_DEFAULTS, **from_file, **stronger}
    own = {}
    for key in values.keys() & _OWN.keys():
        origin = "" if key in stronger else f"{path}: "
        try:
            own[key] = _convert(key, values[key], _OWN[key].type)
        except HalflabelError as error:
            raise HalflabelError(f"{origin}{error}") from error
    for key in ("data", "backbone"):
        if key not in own:
            raise HalflabelError(f"{path}: the key {key} is missing")
    arguments = _training_arguments(path, {key: values[key] for key in values.keys() & _ARGUMENTS}, stronger)
    groups = {
        name: group(**{k.name: own[k.name] for k in fields(group) if k.name in own}) for name, group in GROUPS.items()
    }
    try:
        return Recipe(path.stem, arguments=arguments, said=frozenset((*from_file, *stronger)), **groups)
    except HalflabelError as error:
        typed = any(str(error).startswith((key, f"{key}:")) for key in stronger)
        raise HalflabelError(f"{'' if typed else f'{path}: '}{error}") from error


def _read_file(path: Path) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise HalflabelError(f"{path}: a recipe is a flat mapping of keys to values")
    content.pop(INFORMATION, None)
    return _known(content, f"{path}: ")


def _known(values: Mapping[str, Any], origin: str) -> dict[str, Any]:
    """Return the values that say something; null is the default, but of `weights`, where it is random weights."""
    known = {}
    for key, value in values.items():
        key = SHORT.get(key, key)
        if key in REMOVED:
            if value not in (REMOVED[key], None, "none", False, 0):
                raise HalflabelError(
                    f"{origin}{key} is gone since version 0.2: it was measured not to help; leave it out"
                )
        elif key not in _OWN and key not in _ARGUMENTS:
            raise HalflabelError(f"{origin}unknown key {key!r}{did_you_mean(key, [*_OWN, *_ARGUMENTS])}")
        elif value is not None or key == "weights":
            known[key] = value
    return known


def _parse_flags(flags: Sequence[str]) -> dict[str, Any]:
    """Read options as they are typed; one without a value is true."""
    values: dict[str, Any] = {}
    key = ""
    for part in flags:
        if part.startswith("--"):
            key, has_value, value = part[2:].partition("=")
            key = key.replace("-", "_")
            if key.startswith("no_") and key[3:] in _OWN:
                key, has_value, value = key[3:], "=", "false"
            key = SHORT.get(key, key)
            if key not in _OWN and key not in _ARGUMENTS:
                keys = [*_OWN, *_ARGUMENTS, *SHORT]
                nearest = did_you_mean(key, keys) or "; halflabel recipes --keys lists them"
                raise HalflabelError(f"unknown option --{key}{nearest}")
            values[key] = [value] if has_value else []
        elif not key:
            raise HalflabelError(f"unexpected {part!r}: options are --key value")
        else:
            values[key].append(part)
    return {key: "true" if not given else given[0] if len(given) == 1 else given for key, given in values.items()}


def _convert(key: str, value: Any, hint: Any) -> Any:  # noqa: ANN401
    """Turn what a file, a typed option or a program gives for a key of ours into its type."""
    options = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    if NoneType in options and (value is None or (value == "none" and key != "feature_cache")):
        return None
    if key == "data":
        listed = value if isinstance(value, list | tuple) else [value]
        return [_source(one) for one in listed]
    if hint is Any:
        if isinstance(value, list | tuple):
            raise HalflabelError(f"{key} is a list, expected one value")
        return _mapping(key, value) if isinstance(value, str) and value.lstrip().startswith("{") else value
    wanted = next(option for option in options if option is not NoneType)
    if get_origin(wanted) is list:
        return [str(one) for one in value] if isinstance(value, list | tuple) else [str(value)]
    if get_origin(wanted) is not None:
        return _mapping(key, value)
    if isinstance(value, list | tuple):
        raise HalflabelError(f"{key} is a list, expected one value")
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if wanted is bool and str(value).lower() in words:
        return words[str(value).lower()]
    try:
        if wanted is bool or (wanted is not str and isinstance(value, bool)):
            raise ValueError
        made = wanted(value)
        if wanted is int and isinstance(value, float) and made != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        expected = {bool: "true or false", int: "a whole number", float: "a number"}.get(wanted, "a text")
        raise HalflabelError(f"{key} is {value!r}, expected {expected}") from error
    return made


def _source(value: Any) -> Any:  # noqa: ANN401
    """Return a source as `data.loading` takes it; YAML may have read the name of a file as a number or a date."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        value = _mapping("data", value)
    if isinstance(value, Mapping):
        return {key: _source(one) if key == "path" else one for key, one in value.items()}
    return str(value) if isinstance(value, date | int | float) else value


def _mapping(key: str, value: Any) -> Any:  # noqa: ANN401 - JSON text or a mapping
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, str):
        raise HalflabelError(f"{key} is {value!r}, expected a mapping")
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise HalflabelError(f"{key}: {value!r} is not a mapping in JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise HalflabelError(f"{key}: {value!r} is not a mapping")
    return parsed


class _Parser(HfArgumentParser):
    """Transformers' parser, whose complaints become one line."""

    def error(self, message: str) -> NoReturn:
        raise HalflabelError(message)


def _training_arguments(path: Path, values: Mapping[str, Any], stronger: Mapping[str, Any]) -> TrainingArguments:
    flags = [part for key, value in values.items() for part in _as_flags(key, value)]
    # Without an accelerator, processes that a launcher started share the work only if they are told to be on CPUs.
    implied = [] if torch.accelerator.is_available() else ["--use_cpu=true"]
    parser = _Parser([TrainingArguments], allow_abbrev=False, add_help=False)  # type: ignore[list-item]
    try:
        (arguments,) = parser.parse_args_into_dataclasses([*implied, *flags])
    except HalflabelError as error:
        typed = any(f"argument --{key}" in str(error) for key in stronger)
        raise HalflabelError(f"{'' if typed else f'{path}: '}{error}") from error
    except (ValueError, TypeError, ImportError) as error:  # TrainingArguments checks itself
        raise HalflabelError(f"{path}: {reason_of(error, first_line=True)}") from error
    arguments.report_to = [part for name in arguments.report_to or () for part in name.split(",")]
    return arguments


def _as_flags(key: str, value: Any) -> Iterator[str]:  # noqa: ANN401 - a YAML value
    if isinstance(value, Mapping):
        yield from (f"--{key}", json.dumps(value, default=str))  # a date as it was written
    elif isinstance(value, list | tuple) and key == "report_to":
        yield f"--{key}={','.join(value) or 'none'}"
    elif isinstance(value, list | tuple):
        yield from (f"--{key}", *map(str, value))
    else:
        yield f"--{key}={value}"


def _name(value: Any) -> Any:  # noqa: ANN401 - a setting
    """Return a plain value as it is, and anything else by name."""
    if isinstance(value, Mapping):
        return {key: _name(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_name(one) for one in value]
    return value if isinstance(value, int | float) else part_name(value)
