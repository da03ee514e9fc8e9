"""Recipes: what a run is made of, as typed and frozen settings; default < recipe file < what the caller says."""

import contextlib
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from transformers import HfArgumentParser, Trainer, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from ..decide.decision_fitting import check_fitting
from ..metrics.intervals import check_confidence
from ..metrics.trainer import MEASURES
from ..model.errors import (
    HalflabelError,
    did_you_mean,
    is_out_of_memory,
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
from .keys import (
    GROUPS,
    OWN_KEYS,
    TRAINING_DEFAULTS,
    DataKeys,
    DecisionKeys,
    ModelKeys,
    PseudoLabelOptions,
    TrainingKeys,
    check_value,
    read_keys,
    trainer_keys,
)

_COUNT, _STEPS, _BETA = number(1, whole=True), number(0, above=True), number(0, 1, below=True)
_ARGUMENT_RANGES = {
    "per_device_train_batch_size": _COUNT, "per_device_eval_batch_size": _COUNT, "gradient_accumulation_steps": _COUNT,
    "dataloader_num_workers": number(0), "num_train_epochs": number(0), "max_steps": number(-1),
    "learning_rate": number(0, 1e6), "weight_decay": number(0, 1e6), "seed": number(0, 2**32 - 1),
    "adam_beta1": _BETA, "adam_beta2": _BETA, "adam_epsilon": number(0), "max_grad_norm": number(0),
    "warmup_steps": number(0), "logging_steps": _STEPS, "save_steps": _STEPS, "eval_steps": _STEPS.or_none(),
    "eval_delay": number(0), "eval_accumulation_steps": _COUNT.or_none(), "ddp_timeout": _COUNT,
    "dataloader_prefetch_factor": _COUNT.or_none(),
}  # fmt: skip
_UNFIT: dict[str, tuple[Sequence[Any], str]] = {
    "label_smoothing_factor": ((0,), "it is for one class of many; give --loss_args '{\"label_smoothing\": 0.1}'"),
    "neftune_noise_alpha": ((None,), "it is for models of words"),
    "prediction_loss_only": ((False,), "a run measures logits"),
    "eval_do_concat_batches": ((True,), "a run measures the logits of all batches together"),
    "include_for_metrics": (([],), "the measures are taken of logits and labels alone"),
    "label_names": ((None, ["labels"]), "the labels of a run are called labels"),
    "debug": (([], ["underflow_overflow"]), "it is for TPUs"),
}
"""Fields that a run works with in few values: these, and the reason."""

_EVERYDAY = {
    *TRAINING_DEFAULTS, *_ARGUMENT_RANGES, "output_dir", "use_cpu", "disable_tqdm", "resume_from_checkpoint",
    "push_to_hub", "hub_model_id",
}  # fmt: skip
"""Fields that are checked before, or cannot be wrong: no error of the Trainer is blamed on them."""
_NOTHING: tuple[Any, ...] = (None, False, [], "none")


_GROUP_OF = {key.name: name for name, group in GROUPS.items() for key in fields(group)}
_ARGUMENTS = trainer_keys().keys()


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
        for key, group in _GROUP_OF.items():
            check_value(key, getattr(getattr(self, group), key))
        _check_arguments(self.arguments)
        find_head(self.model.head).check_arguments(self.model.head_args, part_name(self.model.head))
        find_loss(self.model.loss).check(part_name(self.model.loss), self.model.loss_args or {})
        if is_own(self.model.backbone):
            raise missing_part("backbone", self.model.backbone)
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
    def validation_share(self) -> float:
        """The share of the training pictures to validate on where the source names none.

        A head on cached features is trained to a fixed end, and its decisions are fitted out of fold: no picture is
        kept from it, unless early stopping asks for some.
        """
        if self.data.validation_share is not None:
            return self.data.validation_share
        return 0.0 if self.training.cache_features and self.training.early_stopping_patience is None else 0.15

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
        groups = {name: getattr(self, name) for name in GROUPS}
        given, said = {}, self.said | keys.keys()
        for key, value in keys.items():
            if key in _GROUP_OF:
                groups[_GROUP_OF[key]] = replace(groups[_GROUP_OF[key]], **{key: value})
            else:
                given[key] = value
        if not given:
            return replace(self, said=said, **groups)
        derived = {"greater_is_better": None, "load_best_model_at_end": False}
        new = {**{key: value for key, value in derived.items() if key not in said}, **given}
        arguments = _make_arguments(lambda: replace(self.arguments, **new), given, said)
        return replace(self, said=said, arguments=arguments, **groups)

    def check_installed(self) -> None:
        """Refuse a tracker or an optimizer whose package is not there, before any work is done for the run.

        Raises:
            HalflabelError: It names the field and the package.
        """
        there = get_available_reporting_integrations()
        for name in self.arguments.report_to or ():
            if name not in INTEGRATION_TO_CALLBACK:
                nearest = did_you_mean(name, INTEGRATION_TO_CALLBACK)
                raise HalflabelError(f"report_to: {name!r} is none of {', '.join(INTEGRATION_TO_CALLBACK)}{nearest}")
            if name not in (*there, "flyte"):  # of that one transformers does not say whether it is there
                raise HalflabelError(f"report_to: {name} is not installed; here are {', '.join(there) or 'none'}")
        try:
            with contextlib.suppress(ValueError):  # some ask for the model, which is not there yet
                Trainer.get_optimizer_cls_and_kwargs(self.arguments)
        except ImportError as error:
            raise HalflabelError(f"optim {_name(self.arguments.optim)}: {reason_of(error)}") from error

    @contextlib.contextmanager
    def argument_faults_told(self, started: Callable[[], bool] = lambda: False) -> Iterator[None]:
        """Turn what the Trainer raises of its arguments into one line that names them.

        An error that only everyday arguments could have led to is raised as it is, and so is a lack of memory.

        Args:
            started: Tells whether a step is done; what is raised later has other reasons.

        Raises:
            HalflabelError: It holds what the Trainer said.
        """
        try:
            yield
        except Exception as error:
            values = {key: getattr(self.arguments, key) for key in sorted(self.said & _ARGUMENTS)}
            ours = isinstance(error, HalflabelError) or is_out_of_memory(error) or started()
            if ours or not (fault := _argument_fault(error, values)):
                raise
            raise fault from error


T = TypeVar("T")
POLICIES = ("ignore", "negative", "positive")


def by_label(key: str, given: Any, label_names: Sequence[str], default: T, read: Callable[[str, Any], T]) -> list[T]:  # noqa: ANN401
    """Spread a value, or a mapping of label names to values, over the labels.

    Args:
        key: What it is called in errors.
        given: From a recipe.
        label_names: The labels.
        default: Of a label that a mapping does not name.
        read: From what a value is called in errors and the value to what it means.

    Raises:
        HalflabelError: On a label that does not exist, or by `read`.
    """
    if not isinstance(given, Mapping):
        return [read(key, given)] * len(label_names)
    space, values = LabelSpace(label_names), [default] * len(label_names)
    for name, value in given.items():
        values[space.index(name)] = read(f"{key}, label {name!r}", value)
    return values


def parse_policy(key: str, policy: Any, label_names: Sequence[str]) -> list[float | None]:  # noqa: ANN401 - from a file
    """Return per label its target in 0..1, or None for ignore.

    Args:
        key: Which policy it is, for errors: `unknown` or `uncertain`.
        policy: `ignore`, `negative`, `positive` or a soft target in 0..1, for all labels; or label name -> one of
            these, where a label that is not named is ignored.
        label_names: The labels.

    Raises:
        HalflabelError: On another word or number, or a label that does not exist.
    """
    return by_label(key, policy, label_names, None, _target)


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


def _argument_fault(error: Exception, given: Mapping[str, Any]) -> HalflabelError | None:
    """Return what the Trainer says of its arguments in one line; None where it is about none of them.

    Args:
        error: What was raised.
        given: The fields that somebody gave. Where the error names none, those that are not everyday are named.
    """
    text = reason_of(error)
    if any(re.search(rf"\b{key}\b", text) for key in given):
        return HalflabelError(text)
    blamed = [f"{key} {_name(value)}" for key, value in given.items() if key not in _EVERYDAY and value not in _NOTHING]
    return HalflabelError(f"{', '.join(blamed)}: {text}") if blamed else None


def _check_arguments(arguments: TrainingArguments) -> None:
    """Refuse fields of the Trainer's that would be found wrong late, or not at all."""
    for name, kind in _ARGUMENT_RANGES.items():
        kind.check(name, getattr(arguments, name))
    for name, (fitting, reason) in _UNFIT.items():
        value = getattr(arguments, name)
        if value not in fitting:
            raise HalflabelError(f"{name} is {_name(value)}, and a run works with {fitting[-1]} alone: {reason}")
    measure = str(arguments.metric_for_best_model).removeprefix("eval_")
    one_of(*MEASURES, "loss").check("metric_for_best_model", measure)
    if arguments.fp16 and arguments.device.type == "cpu":
        raise HalflabelError(
            "fp16 needs a GPU, and this run is on the CPU, which would leave it out; give bf16, or none"
        )
    if arguments.save_strategy == "best" and arguments.eval_strategy == "no":
        raise HalflabelError("save_strategy best needs evaluations to tell the best by: give eval_strategy epoch")
    if arguments.load_best_model_at_end and arguments.save_strategy == "steps":
        measured, saved = arguments.eval_steps or arguments.logging_steps, arguments.save_steps
        if (measured < 1) != (saved < 1) or round(saved / measured, 6) % 1:  # below 1 they are shares of all steps
            raise HalflabelError(
                f"save_steps {saved:g} is no multiple of eval_steps {measured:g}, so what is saved is not measured and "
                "the best model not known: give others, or load_best_model_at_end false"
            )


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
        if getattr(getattr(recipe, _GROUP_OF[name]), name) != OWN_KEYS[name].default:
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
    if training.early_stopping_patience is not None and recipe.arguments.eval_strategy == "no":
        raise HalflabelError("early_stopping_patience counts evaluations: give eval_strategy epoch or steps")
    PseudoLabelOptions.of(training.pseudo_args)
    if training.pseudo_labels is None:
        if training.pseudo_args is not None:
            raise HalflabelError("pseudo_args needs pseudo_labels: soft")
        return
    loss, unknown = recipe.model.loss, recipe.data.unknown
    for other, given in ((f"unknown: {unknown}", unknown != "ignore"), (f"loss: {loss}", find_loss(loss).uses_unknown)):
        if given:
            raise HalflabelError(f"pseudo_labels does not go with {other}, which is another use of unknown entries")


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
    path, from_file, stronger, own = read_keys(name, overrides)
    pinned = {"dataloader_pin_memory": torch.cuda.is_available()}
    values = {"output_dir": f"outputs/{path.stem}", **pinned, **TRAINING_DEFAULTS, **from_file, **stronger}
    arguments = _training_arguments(path, {key: values[key] for key in values.keys() & _ARGUMENTS}, stronger)
    groups = {
        name: group(**{k.name: own[k.name] for k in fields(group) if k.name in own}) for name, group in GROUPS.items()
    }
    try:
        return Recipe(path.stem, arguments=arguments, said=frozenset((*from_file, *stronger)), **groups)
    except HalflabelError as error:
        typed = any(str(error).startswith((key, f"{key}:")) for key in stronger)
        raise HalflabelError(f"{'' if typed else f'{path}: '}{error}") from error


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
        return _make_arguments(lambda: parser.parse_args_into_dataclasses([*implied, *flags])[0], values, values)
    except HalflabelError as error:
        typed = any(re.search(rf"\b{key}\b", str(error)) for key in stronger)
        raise HalflabelError(f"{'' if typed else f'{path}: '}{error}") from error


def _make_arguments(
    make: Callable[[], TrainingArguments], given: Mapping[str, Any], said: Container[str]
) -> TrainingArguments:
    """Have TrainingArguments check themselves; where nothing was said of it, the best model is kept if it can be known.

    Raises:
        HalflabelError: It tells in one line what they refuse of what was given.
    """
    try:
        arguments = make()
    except HalflabelError:
        raise
    except Exception as error:
        raise _argument_fault(error, given) or HalflabelError(reason_of(error)) from error
    arguments.report_to = [part for name in arguments.report_to or () for part in name.split(",")]
    if "load_best_model_at_end" not in said:
        measured, saved = arguments.eval_strategy, arguments.save_strategy
        arguments.load_best_model_at_end = measured != "no" and saved in (measured, "best")
    return arguments


def _as_flags(key: str, value: Any) -> Iterator[str]:  # noqa: ANN401 - a YAML value
    if isinstance(value, Mapping):
        yield from (f"--{key}", json.dumps(value, default=str))  # a date as it was written
    elif isinstance(value, list | tuple) and key == "report_to":
        yield f"--{key}={','.join(value) or 'none'}"
    elif isinstance(value, list | tuple):
        yield from (f"--{key}", *map(str, value))
    elif value is False and "bool" not in trainer_keys()[key]:  # what YAML makes of no
        yield f"--{key}=no"
    else:
        yield f"--{key}={value}"


def _name(value: Any) -> Any:  # noqa: ANN401 - a setting
    """Return a plain value as it is, and anything else by name."""
    if isinstance(value, Mapping):
        return {key: _name(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_name(one) for one in value]
    value = value.value if isinstance(value, Enum) else value
    return value if isinstance(value, int | float) else part_name(value)
