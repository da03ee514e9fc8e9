"""The keys of a recipe beside those of `transformers.TrainingArguments`, and how their values are read.

The command line uses this before anything heavy is imported: it needs the standard library and `model.errors` alone.
"""

import ast
import functools
import importlib.util
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin

from ..data.files import read_yaml
from ..model.errors import HalflabelError, did_you_mean, is_own, number, one_of

_POLICY = "ignore, negative, positive, a target from 0 to 1, or label -> one of these"


def _key(
    default: Any,  # noqa: ANN401
    help: str,
    least: int | None = None,
    choices: tuple[str, ...] = (),
    table: tuple[str, str] | None = None,
) -> Any:  # noqa: ANN401
    """Return a field: what it is for, the least value, the words it takes; or the file and name of their table."""
    return field(default=default, metadata={"help": help, "least": least, "choices": choices, "table": table})


@dataclass(frozen=True)
class DataKeys:
    """What a recipe says of its pictures and of what is known of them."""

    data: Any = _key((), "sources: files, folders, data sets of the Hub, or street_scenes, the embedded sample")
    image_folder: str | None = _key(None, "what file names in the table are relative to")
    contradictions: str = _key("error", "an entry that sources disagree about: error, unknown, first")
    labels: list[str] | None = _key(None, "the labels to use; default: all")
    streaming: bool = _key(False, "read training pictures as they come; needs max_steps")
    shuffle_buffer: int = _key(1000, "pictures of a stream from which the next is drawn", least=1)
    bad_images: str = _key("error", "a picture that cannot be read: error, or skip and list", choices=("error", "skip"))
    fast_decode: bool = _key(True, "decode a JPEG no larger than the transform needs")
    max_train_images: int | None = _key(None, "use only the first so many", least=1)
    max_test_images: int | None = _key(None, "use only the first so many", least=1)
    validation_share: float | None = _key(
        None, "share of train to validate on if none is given; default: 0.15, or 0 where features are cached"
    )
    test_share: float = _key(0.2, "share to test on where the table names no splits")
    strict: bool = _key(False, "a label without known training entries is an error")
    hide_protocol: str = _key("random", "how known labels are hidden, to simulate unknowns")
    keep_labels: float | None = _key(None, "share of known training entries kept (random)")
    hide_per_label: int | None = _key(None, "positives and negatives kept (per_label)")
    hide_groups: Mapping[str, Any] | None = _key(None, "annotator group -> labels it answers (by_group)")
    hide_seed: int | None = _key(None, "seed of hiding; default: seed", least=0)
    unknown: Any = _key("ignore", f"what an unknown entry is trained on: {_POLICY}")
    uncertain: Any = _key("ignore", f"what an uncertain entry is trained on: {_POLICY}")
    uncertain_values: list[str] | None = _key(None, "table cells that mean uncertain")


@dataclass(frozen=True)
class ModelKeys:
    """What a recipe says of the network and its objective."""

    backbone: Any = _key(None, "a timm name, like resnet50.a1_in1k")
    weights: str | None = _key("hub", "hub, installed, the path of a file, or none")
    backbone_args: Mapping[str, Any] | None = _key(None, "keyword arguments of timm.create_model")
    head: Any = _key("linear", "what is put on the backbone", table=("model/heads.py", "HEADS"))
    head_args: Mapping[str, Any] | None = _key(None, "keyword arguments of the head")
    loss: Any = _key("bce", "the loss per entry", table=("model/losses.py", "LOSSES"))
    loss_args: Mapping[str, Any] | None = _key(None, "keyword arguments of the loss")
    pos_weight: Any = _key(None, "factor of the positive term: a number, label -> number, or auto")
    label_weight: Any = _key(None, "factor of a label's loss: label -> number")
    normalizer: str = _key("labels", "what the loss is divided by", choices=("labels", "images", "tasks"))


@dataclass(frozen=True)
class TrainingKeys:
    """What a recipe says of training, beside `transformers.TrainingArguments`."""

    freeze_backbone: bool = _key(False, "train the head only")
    freeze: list[str] | None = _key(None, "backbone modules to keep: names, globs, or how many first layer groups")
    layer_decay: float = _key(1.0, "rate of a layer group relative to the one above it")
    head_lr_multiplier: float = _key(1.0, "factor of the head's learning rate")
    head_ridge: float | None = _key(
        None, "weight decay of the head, per feature, against the sum of the loss over all entries; like 0.16", least=0
    )
    ema_decay: float | None = _key(None, "evaluate and save a moving average of the weights, like 0.999")
    pseudo_labels: str | None = _key(
        None, "soft: guess unknown entries from features and neighbours", choices=("soft", "none")
    )
    pseudo_args: Mapping[str, Any] | None = _key(None, "neighbours, confidence, rounds, folds of the guesses")
    channels_last: bool = _key(
        True, "keep convolutions in the memory layout that is faster on CPUs and in half precision"
    )
    lora_rank: int | None = _key(None, "train low-rank adapters of this rank (extra lora)")
    lora_alpha: float | None = _key(None, "scale of the adapters; default: twice the rank")
    lora_targets: list[str] | None = _key(None, "layers to adapt; default: attention and mlp linear layers")
    cache_features: bool = _key(False, "each image through the frozen backbone once")
    views: int = _key(1, "augmented views of each image whose features are cached", least=1)
    feature_cache: str | None = _key(None, "where cached features lie, or none: in memory")
    probe_first: str | None = _key(None, "a probe recipe that fits the head before anything else is trained")
    train_transform: Any = _key(None, "from Python: what training does to a picture, in the place of the default")
    early_stopping_patience: int | None = _key(None, "evaluations without a better mAP", least=1)
    log_epochs: bool = _key(False, "a line for each epoch, in the place of one that changes")


@dataclass(frozen=True)
class DecisionKeys:
    """What a recipe says of decisions, and of what is measured, shown and written."""

    decide: str | None = _key(
        None, "fit a threshold per label, on validation or out of fold: f1, precision>=0.9, recall>=0.95, rate=0.05"
    )
    calibration: str = _key("platt", "fitted with it: platt, temperature or none")
    ci: float | None = _key(0.95, "confidence of the intervals of measures")
    plots: bool = _key(False, "also draw what was measured (extra plots)")
    license: str | None = _key(None, "of the model, for its card, like apache-2.0")
    compare_unknown_as_negative: bool = _key(False, "also train with unknown taken as negative, and show both results")


@dataclass(frozen=True)
class PseudoLabelOptions:
    """How pseudo-labels are made.

    Attributes:
        neighbours: Of an image in the graph.
        confidence: An entry is guessed where its answer has at least this chance, in [0.5, 1).
        rounds: How often a probe is trained on the guesses and guesses again; round r of R may guess at r / R of each
            label's unknown entries, the surest ones.
        folds: In how many parts the known entries are hidden, at least 2.
    """

    neighbours: int = 5
    confidence: float = 0.75
    rounds: int = 2
    folds: int = 5

    @classmethod
    def of(cls, given: Mapping[str, Any] | None) -> "PseudoLabelOptions":
        """Read the mapping of a recipe.

        Raises:
            HalflabelError: On an unknown name, or a value out of range.
        """
        for name, value in (given or {}).items():
            if name not in _RANGES:
                taken = f"it takes {', '.join(_RANGES)}{did_you_mean(name, _RANGES)}"
                raise HalflabelError(f"pseudo_args takes no {name!r}; {taken}")
            _RANGES[name].check(f"pseudo_args: {name}", value)
        return cls(**(given or {}))


_COUNT = number(1, whole=True)
_RANGES = {
    "neighbours": _COUNT, "confidence": number(0.5, 1, below=True), "rounds": _COUNT, "folds": number(2, whole=True),
}  # fmt: skip


GROUPS: dict[str, type] = {"data": DataKeys, "model": ModelKeys, "training": TrainingKeys, "decisions": DecisionKeys}
"""By the names that they have in a `Recipe`."""

OWN_KEYS = {key.name: key for group in GROUPS.values() for key in fields(group)}
DEFAULTS = {name: key.default for name, key in OWN_KEYS.items()}

SHORT = {"epochs": "num_train_epochs", "lr": "learning_rate", "batch_size": "per_device_train_batch_size"}
"""Short names of options."""

TRAINING_DEFAULTS: dict[str, Any] = {
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "logging_strategy": "epoch",
    "save_total_limit": 1,
    "metric_for_best_model": "mAP",
    "remove_unused_columns": False,
    "per_device_eval_batch_size": 32,
}
"""Where our defaults differ from those of `transformers.TrainingArguments`."""

LIBRARIES = ("halflabel", "torch", "torchvision", "timm", "transformers", "datasets", "accelerate", "safetensors")
"""What a result depends on."""

REMOVED = {
    "teacher_weight": None, "teacher_ramp": 0.3, "teacher_share": 0.8, "mixing": None, "mixing_args": None,
    "unfreeze_every": None, "relations": False,
}  # fmt: skip
"""Keys of earlier versions, and the value that said nothing: what they did was measured not to help."""

INFORMATION = "versions"  # a key of resolved recipes that is not a setting
LAUNCHERS = "accelerate"  # the folder of configurations for `accelerate launch`, which are no recipes


def recipe_folder() -> Path:
    """Return where the shipped recipes lie: inside an installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[1]
    return package / "recipes" if (package / "recipes").is_dir() else package.parents[1] / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes by name: the file name without its ending."""
    return {path.stem: path for path in sorted(recipe_folder().rglob("*.yaml")) if path.parent.name != LAUNCHERS}


def split_entrant(text: str) -> list[str]:
    """Split a recipe with overrides behind it, as `compare` takes it: `linear_probe --loss em`.

    Raises:
        HalflabelError: On a quotation mark without its partner, or nothing at all.
    """
    try:
        parts = shlex.split(text)
    except ValueError as error:
        raise HalflabelError(f"recipe {text!r}: {error}; give a name or path, and --key value ... behind it") from error
    return parts or [text]


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


@functools.cache
def trainer_keys() -> dict[str, str]:
    """Return the fields of `transformers.TrainingArguments` and their types, from its source: importing is slow."""
    spec = importlib.util.find_spec("transformers")
    body = _parse(Path(str(spec and spec.origin)).with_name("training_args.py"))
    (arguments,) = (node for node in body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    nodes = [node for node in arguments.body if isinstance(node, ast.AnnAssign)]
    return {
        ast.unparse(node.target): ast.unparse(node.annotation)
        for node in nodes
        if "init=False" not in ast.unparse(node)
    }


@functools.cache
def choices(key: str) -> tuple[str, ...]:
    """Return the words that a key takes; () where any value may do."""
    found = OWN_KEYS[key].metadata
    if found["table"] is None:
        return tuple(found["choices"])
    file, name = found["table"]
    nodes = [node for node in _parse(Path(__file__).parents[1] / file) if isinstance(node, ast.AnnAssign)]
    (table,) = (node.value for node in nodes if ast.unparse(node.target) == name)
    assert isinstance(table, ast.Dict)
    return tuple(ast.literal_eval(key) for key in table.keys if key is not None)


def _parse(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text(encoding="utf-8")).body


def check_value(key: str, value: Any) -> None:  # noqa: ANN401
    """Refuse a value of a key of ours that is below its least or none of its words.

    Raises:
        HalflabelError: It names the value and the allowed ones.
    """
    least = OWN_KEYS[key].metadata["least"]
    if isinstance(value, str) and choices(key) and not is_own(value):
        one_of(*choices(key)).check(key, value)
    elif least is not None and value is not None:
        number(least).check(key, value)


def read_keys(
    name: str, said: Sequence[str] | Mapping[str, Any]
) -> tuple[Path, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Read a recipe, and what the caller says otherwise.

    Args:
        name: A path or a shipped name.
        said: `["--key", "value", ...]` as typed, or keys and values.

    Returns:
        The recipe's file; what it says; what the caller says; and the values of our own keys by both, the caller's
        where there are two, each of its key's type.

    Raises:
        HalflabelError: On a file that is not a flat YAML mapping, an unknown key (with the nearest one), or a value
            that is not as its key demands.
    """
    path = find_recipe(name)
    typed = _known(said) if isinstance(said, Mapping) else _known(_parse_flags(said), typed=True)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise HalflabelError(f"{path}: a recipe is a flat mapping of keys to values")
    content.pop(INFORMATION, None)
    from_file = _known(content, f"{path}: ")
    own, values = {}, {**from_file, **typed}
    for key, value in values.items():
        try:
            if key in OWN_KEYS:
                own[key] = _convert(key, value)
                check_value(key, own[key])
            else:
                _check_number(key, value)
        except HalflabelError as error:
            raise HalflabelError(f"{'' if key in typed else f'{path}: '}{error}") from error
    for key in ("data", "backbone"):
        if key not in own:
            raise HalflabelError(f"{path}: the key {key} is missing")
    return path, from_file, typed, own


def _known(values: Mapping[str, Any], origin: str = "", typed: bool = False) -> dict[str, Any]:
    """Return the values that say something; null is the default, but of `weights`, where it is random weights."""
    known = {}
    for key, value in values.items():
        key = SHORT.get(key, key)
        if key in REMOVED:
            if value not in (REMOVED[key], None, "none", False, 0):
                raise HalflabelError(
                    f"{origin}{key} is gone since version 0.2: it was measured not to help; leave it out"
                )
        elif key not in OWN_KEYS and key not in trainer_keys():
            nearest = did_you_mean(key, [*OWN_KEYS, *trainer_keys(), *SHORT])
            if typed:
                raise HalflabelError(f"unknown option --{key}{nearest or '; halflabel recipes --keys lists them'}")
            raise HalflabelError(f"{origin}unknown key {key!r}{nearest}")
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
            if key.startswith("no_") and key[3:] in OWN_KEYS:
                key, has_value, value = key[3:], "=", "false"
            values[key] = [value] if has_value else []
        elif not key:
            raise HalflabelError(f"unexpected {part!r}: options are --key value")
        else:
            values[key].append(part)
    return {key: "true" if not given else given[0] if len(given) == 1 else given for key, given in values.items()}


def _check_number(key: str, value: Any) -> None:  # noqa: ANN401
    """Refuse what is no number where a key of the Trainer's is one, as its own parser would later."""
    kind = trainer_keys()[key]
    if kind in ("int", "float") and isinstance(value, str):
        try:
            {"int": int, "float": float}[kind](value)
        except ValueError as error:
            raise HalflabelError(f"argument --{key}: invalid {kind} value: {value!r}") from error


def _convert(key: str, value: Any) -> Any:  # noqa: ANN401
    """Turn what a file, a typed option or a program gives for a key of ours into its type."""
    hint = OWN_KEYS[key].type
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
