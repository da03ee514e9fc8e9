"""The keys of a recipe beside those of `transformers.TrainingArguments`, and what they demand of one another."""

import json
from dataclasses import dataclass, field
from typing import Any

from ..decide.decision_fitting import check_fitting
from ..metrics.bootstrap import check_confidence
from ..model.errors import HalflabelError, did_you_mean
from ..model.heads import check_head
from ..model.losses import find_loss
from ..model.objective import check_normalizer
from .policies import parse_policy
from .pseudo_options import PseudoLabelOptions

_POLICY = "ignore, negative, positive, a target from 0 to 1, or label -> one of these"
BAD_IMAGES = ("error", "skip")
_NOT_STREAMING = ("cache_features", "max_train_images", "keep_labels", "hide_per_label", "hide_groups", "hide_protocol",
                  "image_folder", "probe_first", "pseudo_labels")  # fmt: skip
_EXCLUDING = {
    "freeze_backbone": ("freeze", "lora_rank", "probe_first"),
    "lora_rank": ("freeze",),
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
    layer_decay: float = field(default=1.0, metadata={"help": "rate of a layer group relative to the one above it"})
    head_lr_multiplier: float = field(default=1.0, metadata={"help": "factor of the head's learning rate"})
    ema_decay: float | None = field(
        default=None, metadata={"help": "evaluate and save a moving average of the weights, like 0.999"}
    )
    pseudo_labels: str | None = field(
        default=None, metadata={"help": "soft: guess unknown entries from features and neighbours, as soft targets"}
    )
    pseudo_args: str | None = field(
        default=None, metadata={"help": "neighbours, confidence, rounds, folds of the guesses"}
    )
    channels_last: bool = field(
        default=True,
        metadata={"help": "keep convolutions in the memory layout that is faster on CPUs and in half precision"},
    )
    lora_rank: int | None = field(default=None, metadata={"help": "train low-rank adapters of this rank (extra lora)"})
    lora_alpha: float | None = field(default=None, metadata={"help": "scale of the adapters; default: twice the rank"})
    lora_targets: list[str] | None = field(
        default=None, metadata={"help": "layers to adapt; default: attention and mlp linear layers"}
    )
    cache_features: bool = field(default=False, metadata={"help": "each image through the frozen backbone once"})
    views: int = field(default=1, metadata={"help": "augmented views of each image whose features are cached"})
    feature_cache: str | None = field(default=None, metadata={"help": "where cached features lie, or none: in memory"})
    probe_first: str | None = field(
        default=None, metadata={"help": "a probe recipe that fits the head before anything else is trained"}
    )
    decide: str | None = field(
        default=None,
        metadata={"help": "fit a threshold per label on validation: f1, precision>=0.9, recall>=0.95, rate=0.05"},
    )
    calibration: str = field(default="platt", metadata={"help": "fitted with it: platt, temperature or none"})
    ci: float | None = field(default=None, metadata={"help": "confidence of intervals in metrics.json, like 0.95"})
    plots: bool = field(default=False, metadata={"help": "also draw what was measured (extra plots)"})
    license: str | None = field(default=None, metadata={"help": "of the model, for its card, like apache-2.0"})
    early_stopping_patience: int | None = field(default=None, metadata={"help": "evaluations without a better mAP"})

    def __post_init__(self) -> None:
        """Parse the mappings and check what needs no data."""
        self.data = [_mapping("data", one) if str(one).lstrip().startswith("{") else one for one in self.data]  # type: ignore[misc]
        for name in ("backbone_args", "head_args", "hide_groups", "loss_args", "pseudo_args"):
            setattr(self, name, _mapping(name, getattr(self, name)))
        for name in ("unknown", "uncertain", "pos_weight", "label_weight"):
            if str(getattr(self, name)).lstrip().startswith("{"):
                setattr(self, name, _mapping(name, getattr(self, name)))
        for name in ("unknown", "uncertain"):
            policy = getattr(self, name)
            parse_policy(name, policy, list(policy) if isinstance(policy, dict) else ["any"])
        check_head(self.head, self.head_args)  # type: ignore[arg-type]
        find_loss(self.loss).check(self.loss, self.loss_args or {})  # type: ignore[arg-type]
        check_normalizer(self.normalizer)
        if self.bad_images not in BAD_IMAGES:
            nearest = did_you_mean(self.bad_images, BAD_IMAGES)
            raise HalflabelError(f"bad_images: {self.bad_images!r} is none of {', '.join(BAD_IMAGES)}{nearest}")
        if self.streaming:
            self._check_streaming()
        self._check_pseudo_labels()
        for name, others in _EXCLUDING.items():
            for other in others:
                if getattr(self, name) not in (None, False) and getattr(self, other) not in (None, False):
                    raise HalflabelError(f"{name} does not go with {other}: each says which weights are trained")
        for name in ("lora_alpha", "lora_targets"):
            if getattr(self, name) is not None and self.lora_rank is None:
                raise HalflabelError(f"{name} needs lora_rank, like 8")
        if self.views < 1 or (self.views > 1 and not self.cache_features):
            raise HalflabelError(f"views is {self.views}: it is at least 1, and more than 1 only with cache_features")
        if self.decide == "none":
            self.decide = None
        check_fitting(self.decide or "f1", self.calibration)
        if self.ci is not None:
            check_confidence(self.ci)
        if self.cache_features and not self.freeze_backbone:
            raise HalflabelError(
                "cache_features needs freeze_backbone: true; a backbone in training changes its features"
            )

    def _check_pseudo_labels(self) -> None:
        """Refuse options that are not there, and a second way to fill unknown entries."""
        PseudoLabelOptions.of(self.pseudo_args)  # type: ignore[arg-type]
        if self.pseudo_labels == "none":
            self.pseudo_labels = None
        if self.pseudo_labels is None:
            if self.pseudo_args is not None:
                raise HalflabelError("pseudo_args needs pseudo_labels: soft")
            return
        if self.pseudo_labels != "soft":
            raise HalflabelError(f"pseudo_labels: {self.pseudo_labels!r} is neither soft nor none")
        others = {
            f"unknown: {self.unknown}": self.unknown != "ignore",
            f"loss: {self.loss}": find_loss(self.loss).uses_unknown,
        }
        for other, given in others.items():
            if given:
                raise HalflabelError(f"pseudo_labels does not go with {other}, which is another use of unknown entries")

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
