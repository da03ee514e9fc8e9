"""Recipes: which keys there are, and how default < recipe file < command line come together."""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import torch
from transformers import HfArgumentParser, TrainingArguments

from ..data.strict_yaml import read_yaml
from ..model.errors import HalflabelError, did_you_mean, reason_of
from .settings import RecipeArguments

PACKAGE_FOLDER = Path(__file__).parents[1]
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

    @property
    def resumes(self) -> bool:
        """Whether it goes on from the last checkpoint in its folder."""
        return self.training.resume_from_checkpoint in ("true", "True")


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
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml")) if path.parent.name != LAUNCHERS}


def describe_keys() -> list[str]:
    """Return a line for each key of a recipe that is no field of `TrainingArguments`, and lines for those."""
    lines = []
    for key in fields(RecipeArguments):
        default = "" if key.default is None or key.default is MISSING else f" (default: {_plain_text(key.default)})"
        lines.append(f"{key.name:27} {key.metadata['help']}{default}")
    lines.append(
        "and every field of transformers.TrainingArguments, as num_train_epochs, learning_rate, output_dir, seed;"
    )
    given = ", ".join(f"{name}: {_plain_text(value)}" for name, value in TRAINING_DEFAULTS.items())
    return [*lines, f"where other defaults than its own are {given}"]


def _plain_text(value: Any) -> str:  # noqa: ANN401 - a default
    return str(value).lower() if isinstance(value, bool) else str(value)


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
    single = {action.dest for action in parser._actions if action.nargs not in ("+", "*")}
    for key in single & from_file.keys():
        if isinstance(from_file[key], list) and key != "report_to":
            raise HalflabelError(f"{path}: {key} is a list, expected one value")
    argv = [part for key, value in arguments.items() for part in _as_flags(key, value)]
    extra = _complete_flags(overrides, keys)
    # Without an accelerator, processes that a launcher started share the work only if they are told to be on CPUs.
    implied = [] if torch.accelerator.is_available() else ["--use_cpu=true"]
    try:
        settings, training = parser.parse_args_into_dataclasses([*implied, *argv, *extra])
    except argparse.ArgumentError as error:
        raise HalflabelError(f"{_origin(path, str(error), extra)}{error}") from error
    except HalflabelError as error:
        raise HalflabelError(f"{_origin(path, str(error), extra)}{error}") from error
    except (ValueError, TypeError, ImportError) as error:  # TrainingArguments checks itself
        raise HalflabelError(f"{path}: {reason_of(error, first_line=True)}") from error
    if settings.streaming and training.max_steps <= 0:
        raise HalflabelError(f"{path}: streaming needs max_steps, since a stream has no length: --max_steps 10000")
    _check_ranges(path, settings, training)
    training.report_to = [part for name in training.report_to or () for part in name.split(",")]
    given = {*arguments, *(part[2:] for part in extra if part.startswith("--"))}
    values = {**{f.name: getattr(settings, f.name) for f in fields(settings)}, **_plain(training, given)}
    return Recipe(path.stem, settings, training, values)


def _origin(path: Path, said: str, flags: Sequence[str]) -> str:
    """Return where a fault stands, as the start of a message: the recipe's file, or nothing for a typed key."""
    typed = {flag.split("=", 1)[0] for flag in flags if flag.startswith("--")}
    return "" if any(f"argument {flag}/" in said or f"argument {flag}:" in said for flag in typed) else f"{path}: "


def _check_ranges(path: Path, settings: RecipeArguments, training: TrainingArguments) -> None:
    """Refuse numbers that the Trainer takes, and then stops at or makes nothing of."""
    for values, name, low, high in (
        (training, "per_device_train_batch_size", 1, math.inf),
        (training, "per_device_eval_batch_size", 1, math.inf),
        (training, "gradient_accumulation_steps", 1, math.inf),
        (training, "dataloader_num_workers", 0, math.inf),
        (training, "num_train_epochs", 0, math.inf),
        (training, "max_steps", -1, math.inf),
        (training, "learning_rate", 0, 1e6),
        (training, "weight_decay", 0, 1e6),
        (training, "seed", 0, 2**32 - 1),
        (settings, "hide_seed", 0, math.inf),
        (settings, "max_train_images", 1, math.inf),
        (settings, "max_test_images", 1, math.inf),
        (settings, "early_stopping_patience", 1, math.inf),
    ):
        value = getattr(values, name)
        if value is not None and not low <= value <= high:
            most = "" if high == math.inf else f" and at most {high:g}"
            raise HalflabelError(f"{path}: {name} is {value}, expected at least {low}{most}")


def _read_yaml(path: Path, keys: set[str]) -> dict[str, Any]:
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise HalflabelError(f"{path}: a recipe is a flat mapping of keys to values")
    content.pop(INFORMATION, None)
    if content.get("weights", "") is None:
        content["weights"] = "none"  # elsewhere null is the default; here it says: random weights
    for key, nothing in REMOVED.items():
        if content.pop(key, nothing) not in (nothing, None, "none", False, 0):
            raise HalflabelError(f"{path}: {key} is gone since version 0.2: it was measured not to help; leave it out")
    for key in content:
        if key not in keys:
            raise HalflabelError(f"{path}: unknown key {key!r}{did_you_mean(key, keys)}")
    return content


def _as_flags(key: str, value: Any) -> list[str]:  # noqa: ANN401 - a YAML value
    if isinstance(value, Mapping):
        return [f"--{key}", json.dumps(value, default=str)]  # a date as it was written
    if isinstance(value, list) and key == "report_to":
        return [f"--{key}={','.join(value) or 'none'}"]
    if isinstance(value, list):
        return [
            f"--{key}",
            *(json.dumps(item, default=str) if isinstance(item, Mapping) else str(item) for item in value),
        ]
    return [f"--{key}={value}"]


def _complete_flags(overrides: Sequence[str], keys: set[str]) -> list[str]:
    """Check the overrides' keys; `--resume_from_checkpoint` alone means the last checkpoint, others alone mean yes."""
    flags: list[str] = []
    for position, part in enumerate(overrides):
        if part.startswith("--"):
            key = part[2:].split("=", 1)[0].replace("-", "_")
            if key not in keys:
                nearest = did_you_mean(key, keys) or "; halflabel recipes --keys lists them"
                raise HalflabelError(f"unknown option --{key}{nearest}")
            part = f"--{key}" + part[2 + len(key) :]
        flags.append(part)
        following = overrides[position + 1] if position + 1 < len(overrides) else "--"
        if part in ("--resume_from_checkpoint", "--hub_private_repo") and following.startswith("--"):
            flags.append("true")
    return flags


def _plain(training: TrainingArguments, given: set[str]) -> dict[str, Any]:
    """Return the given training arguments as plain YAML values."""
    # Where this run is pushed to, and by whose token, is nothing for who runs the saved recipe again.
    known = {f.name for f in fields(training) if f.name != "push_to_hub" and not f.name.startswith("hub_")}
    values = training.to_dict()
    values["report_to"] = ",".join(training.report_to or ()) or "none"  # TrainingArguments turned a name into a list
    return {key: values[key] for key in sorted({key.split("=")[0] for key in given} & known | {"seed"})}
