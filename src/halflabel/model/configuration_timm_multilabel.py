"""The model's configuration: which backbone, which labels, which head, which loss."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from huggingface_hub import ModelCard, ModelCardData
from transformers import PreTrainedConfig

from .backbones import check_backbone, check_backbone_args
from .decisions import DecisionRule
from .errors import HalflabelError, Kind, did_you_mean, is_own, number, one_of, printable, shortlist
from .heads import find_head
from .labels import LabelSpace, ordered_names
from .losses import find_loss
from .objective import check_normalizer

log = logging.getLogger(__name__)
VERSION = "0.2.0"
"""This halflabel, which writes it into configurations. It stands here since the file also runs without the package."""

# Keys that transformers itself writes to, or passes through, a configuration beside its own fields.
_TRANSFORMERS_KEYS = frozenset({
    "_commit_hash", "_name_or_path", "attn_implementation", "auto_map", "custom_pipelines", "distributed_config",
    "experts_implementation", "model_type", "name_or_path", "output_attentions", "per_layer_config",
    "quantization_config", "tie_word_embeddings", "torch_dtype",
    "use_cache",  # the Trainer writes it to the model it trains
})  # fmt: skip
_LABEL_KEYS = frozenset({"id2label", "label2id", "label_names", "num_labels"})
_PROBLEM: Literal["multi_label_classification"] = "multi_label_classification"
"""With it stock pipelines use the sigmoid."""


def check_version(written: object) -> None:
    """Refuse a configuration that a newer halflabel wrote, whose keys may mean something else.

    Args:
        written: A version like `"0.2.0"`; one that differs in the third number only can be read.

    Raises:
        HalflabelError: If it is newer, or no version.
    """
    numbers = re.match(r"(\d+)\.(\d+)", str(written))
    if numbers is None:
        raise HalflabelError(f"halflabel_version is {written!r}, expected a version like {VERSION!r}")
    if tuple(map(int, numbers.groups())) > tuple(map(int, VERSION.split(".")[:2])):
        raise HalflabelError(
            f"the model was saved by halflabel {written}, and this is halflabel {VERSION}: pip install -U halflabel"
        )


TAGS = ["halflabel", "timm", "multi-label"]
_TEXT = """
# {name}

A multi-label image classifier: each of its {count} yes/no questions is answered by its own sigmoid, on the timm
backbone `{backbone}`. Yes is a score of at least

````json
{thresholds}
````

## Use

```python
from transformers import pipeline

classify = pipeline("image-classification", {repository}, trust_remote_code=True, top_k=None)
print(classify("photo.jpg"))
```

`trust_remote_code` is not needed after `import halflabel`. How the model was trained and measured is not told here;
`halflabel train` writes a card that does.
"""


class TimmMultiLabelConfig(PreTrainedConfig):
    """Configuration of `TimmMultiLabelForImageClassification`.

    Args:
        backbone: A timm architecture, optionally with the tag of its weights, like `"resnet50.a1_in1k"`. This, the
            head and the loss are `own:NAME` where a program gave a part of its own.
        backbone_args: Keyword arguments for `timm.create_model`, like `{"drop_path_rate": 0.1}`.
        head: A key of `heads.HEADS`.
        head_args: Keyword arguments of that head.
        loss: A key of `losses.LOSSES`.
        loss_args: Keyword arguments of that loss, like `{"gamma_neg": 2}`.
        pos_weight: Factor of the positive term per label, num_labels numbers above 0.
        label_weight: Factor of each label's loss, num_labels numbers of at least 0.
        normalizer: What the loss is divided by; see `losses.masked_loss`.
        decisions: Calibration and threshold per label, as `DecisionRule.to_dict` gives them; None: none were fitted.
        halflabel_version: Who wrote the configuration; it is checked, and becomes this one's.
        label_names: The yes/no questions, in order (also accepted as `id2label`, `label2id` or both).

    Raises:
        HalflabelError: On the configuration of a newer halflabel, an unknown key, backbone, head, loss, argument or
            normalizer, a value out of range, decisions for other labels, or label names that are empty, repeated, not
            numbered from 0, or said in two ways that contradict.
    """

    model_type = "timm_multilabel"
    _auto_class = "AutoConfig"  # the files with the model's code are saved beside it, for `trust_remote_code`

    backbone: str = "tf_efficientnet_lite0"
    backbone_args: dict[str, Any] | None = None
    head: str = "linear"
    head_args: dict[str, Any] | None = None
    loss: str = "bce"
    loss_args: dict[str, Any] | None = None
    pos_weight: list[float] | None = None
    label_weight: list[float] | None = None
    normalizer: str = "labels"
    decisions: dict[str, Any] | None = None
    halflabel_version: str = VERSION

    def __post_init__(self, **kwargs: Any) -> None:  # noqa: ANN401 - transformers' own contract
        """Check every value; transformers calls this with the keys that are not fields."""
        check_version(self.halflabel_version)  # first: what is wrong with a newer one's keys is that they are newer
        self.halflabel_version = VERSION
        named = {key: kwargs.pop(key, None) for key in ("label_names", "num_labels")}
        if kwargs.pop("relations", None) is not None:  # a key of version 0.1
            raise HalflabelError(
                "the model has relations between labels, which halflabel has no more since version 0.2: set relations "
                "to null in its config.json (its scores of pictures stay the same), or use halflabel 0.1"
            )
        unknown = sorted(set(kwargs) - _TRANSFORMERS_KEYS)
        if unknown:
            known = [*self.__dataclass_fields__, "label_names"]
            raise HalflabelError(f"unknown configuration key {unknown[0]!r}{did_you_mean(unknown[0], known)}")
        names = ordered_names(id2label=self.id2label, label2id=self.label2id, **named)
        if names is not None:
            self.id2label, self.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
        PreTrainedConfig.__post_init__(self, **kwargs)
        self.problem_type = self.problem_type or _PROBLEM
        self.validate()

    def __setattr__(self, key: str, value: Any) -> None:  # noqa: ANN401
        """Have the numbers of labels follow when a program gives a configuration other names."""
        object.__setattr__(self, key, value)
        if key == "id2label" and "problem_type" in self.__dict__ and isinstance(value, Mapping):
            self.label2id = {name: number for number, name in value.items()}

    def validate(self) -> None:
        """Check every value as it is now: transformers asks for it before it saves, a model when it is made.

        Raises:
            HalflabelError: As the class, and on an attribute that a saved configuration cannot have.
        """
        Kind(_PROBLEM, lambda value: value == _PROBLEM).check("problem_type", self.problem_type)
        # By any other word transformers would look for code on the Hub.
        one_of("eager", "sdpa").or_none().check("attn_implementation", self._attn_implementation)
        attributes = {key for key in self.__dict__ if not key.startswith("_")}
        if unknown := sorted(attributes - {*self.__dataclass_fields__, *_TRANSFORMERS_KEYS}):
            raise HalflabelError(f"the configuration has {unknown[0]!r}, which no saved one may have: take it away")
        if not is_own(self.backbone):
            check_backbone(self.backbone)
        check_backbone_args(self.backbone_args)
        if not is_own(self.head):
            find_head(self.head).check_arguments(self.head_args, self.head)
        check_normalizer(self.normalizer)
        space = LabelSpace(ordered_names(id2label=self.id2label, label2id=self.label2id) or ())
        if not is_own(self.loss):
            find_loss(self.loss).check(self.loss, self.loss_args or {}, len(space))
        for name, weights, kind in (
            ("pos_weight", self.pos_weight, number(0, above=True)), ("label_weight", self.label_weight, number(0))
        ):  # fmt: skip
            if weights is not None:
                kind.check_each(name, weights, len(space))
        if self.decisions is not None:
            DecisionRule.from_dict(self.decisions, len(space))

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        """Read a configuration, with other values in the place of some: they are checked as if they stood there.

        Labels given by any of their keys replace those that stand there.
        """
        own = {*cls.__annotations__, "problem_type", *_LABEL_KEYS}
        given = {key: kwargs.pop(key) for key in own & kwargs.keys()}
        if given.keys() & _LABEL_KEYS == {"num_labels"} and given["num_labels"] == len(
            config_dict.get("id2label") or ()
        ):
            del given["num_labels"]
        dropped = _LABEL_KEYS if given.keys() & _LABEL_KEYS else ()
        kept = {key: value for key, value in config_dict.items() if key not in dropped}
        return super().from_dict({**kept, **given}, **kwargs)

    @property
    def decision_rule(self) -> DecisionRule:
        """The stored calibration and thresholds; without any, the plain sigmoid and yes from a score of 0.5."""
        count = len(self.label_space)
        return DecisionRule.plain(count) if self.decisions is None else DecisionRule.from_dict(self.decisions, count)

    @property
    def label_space(self) -> LabelSpace:
        """The label names, in the order of the logits."""
        return LabelSpace(ordered_names(id2label=self.id2label) or ())

    def with_labels(
        self,
        label_names: Sequence[str],
        head: str | None = None,
        head_args: Mapping[str, Any] | None = None,
        keep: bool = True,
    ) -> "TimmMultiLabelConfig":
        """Return the configuration of the same network for other labels.

        Args:
            label_names: The new yes/no questions.
            head: None keeps the head, and its arguments where none are given.
            head_args: Keyword arguments of the head.
            keep: `pos_weight`, `label_weight`, `decisions` and the loss argument `prior` follow labels of the same
                name: a new label has weight 1, the plain sigmoid and a threshold of 0.5, and makes the prior go.
                False: all four go.

        Raises:
            HalflabelError: As the constructor.
        """
        places = {name: i for i, name in enumerate(self.label_space.names)}
        rows = [places.get(name) if keep else None for name in label_names]
        loss_args = dict(self.loss_args or {})
        prior = loss_args.pop("prior", None)
        if prior is not None and None not in rows:
            loss_args["prior"] = [prior[row] for row in rows]
        elif prior is not None:
            log.warning("the loss's prior is dropped: the new labels have none")
        kept_args = self.head_args if head in (None, self.head) else None
        return TimmMultiLabelConfig(
            backbone=self.backbone,
            backbone_args=self.backbone_args,
            head=head or self.head,
            head_args=dict(head_args or kept_args or {}) or None,
            loss=self.loss,
            loss_args=loss_args or None,
            normalizer=self.normalizer,
            pos_weight=_follow("pos_weight", self.pos_weight, rows),
            label_weight=_follow("label_weight", self.label_weight, rows),
            decisions=self._follow_decisions(label_names, rows),
            id2label=dict(enumerate(label_names)),
        )

    def _follow_decisions(self, label_names: Sequence[str], rows: Sequence[int | None]) -> dict[str, Any] | None:
        if self.decisions is None:
            return None
        if all(row is None for row in rows):
            log.warning("decisions is dropped: no label stays")
            return None
        new = shortlist(name for name, row in zip(label_names, rows, strict=True) if row is None)
        if new:
            log.warning("the new labels are not calibrated and answered with yes from a score of 0.5: %s", new)
        return self.decision_rule.take(rows).to_dict()


def _follow(name: str, weights: list[float] | None, rows: Sequence[int | None]) -> list[float] | None:
    """Return the weights of labels in their new places; a new label has 1."""
    if weights is None:
        return None
    if all(row is None for row in rows):
        log.warning("%s is dropped: no label stays", name)
        return None
    if None in rows:
        log.warning("%s is 1 for the new labels", name)
    return [1.0 if row is None else weights[row] for row in rows]


def short_card(config: TimmMultiLabelConfig, repository: str) -> ModelCard:
    """Return the card of a model with this configuration; its example loads the repository that it is pushed to."""
    metadata = ModelCardData(library_name="transformers", pipeline_tag="image-classification", tags=TAGS)
    thresholds = dict(zip(config.label_space.names, config.decision_rule.thresholds, strict=True))
    text = _TEXT.format(
        name=repository.rsplit("/", 1)[-1],
        count=len(thresholds),
        backbone=printable(config.backbone),
        thresholds="\n".join(map(printable, json.dumps(thresholds, indent=1, ensure_ascii=False).split("\n"))),
        repository=json.dumps(repository),
    )
    return ModelCard(f"---\n{metadata.to_yaml()}\n---\n{text}")
