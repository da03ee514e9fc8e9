"""The keys of a recipe beside those of `transformers.TrainingArguments`: types, defaults, and what they are for.

The command line reads this file by itself, before anything heavy is imported: it needs the standard library alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

_POLICY = "ignore, negative, positive, a target from 0 to 1, or label -> one of these"


def _key(default: Any, help: str, least: int | None = None, choices: tuple[str, ...] = ()) -> Any:  # noqa: ANN401
    return field(default=default, metadata={"help": help, "least": least, "choices": choices})


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
    validation_share: float = _key(0.15, "share of train to validate on if none is given")
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
    head: Any = _key("linear", "what is put on the backbone: linear, mlp, csra, ml_decoder")
    head_args: Mapping[str, Any] | None = _key(None, "keyword arguments of the head")
    loss: Any = _key("bce", "the loss per entry")
    loss_args: Mapping[str, Any] | None = _key(None, "keyword arguments of the loss")
    pos_weight: Any = _key(None, "factor of the positive term: a number, label -> number, or auto")
    label_weight: Any = _key(None, "factor of a label's loss: label -> number")
    normalizer: str = _key("labels", "labels, images or tasks: what the loss is divided by")


@dataclass(frozen=True)
class TrainingKeys:
    """What a recipe says of training, beside `transformers.TrainingArguments`."""

    freeze_backbone: bool = _key(False, "train the head only")
    freeze: list[str] | None = _key(None, "backbone modules to keep: names, globs, or how many first layer groups")
    layer_decay: float = _key(1.0, "rate of a layer group relative to the one above it")
    head_lr_multiplier: float = _key(1.0, "factor of the head's learning rate")
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
        None, "fit a threshold per label on validation: f1, precision>=0.9, recall>=0.95, rate=0.05"
    )
    calibration: str = _key("platt", "fitted with it: platt, temperature or none")
    ci: float | None = _key(None, "confidence of intervals in metrics.json, like 0.95")
    plots: bool = _key(False, "also draw what was measured (extra plots)")
    license: str | None = _key(None, "of the model, for its card, like apache-2.0")
    compare_unknown_as_negative: bool = _key(False, "also train with unknown taken as negative, and show both results")


GROUPS: dict[str, type] = {"data": DataKeys, "model": ModelKeys, "training": TrainingKeys, "decisions": DecisionKeys}
"""By the names that they have in a `Recipe`."""

DEFAULTS = {key.name: key.default for group in GROUPS.values() for key in fields(group)}

SHORT = {"epochs": "num_train_epochs", "lr": "learning_rate", "batch_size": "per_device_train_batch_size"}
"""Short names of options."""
