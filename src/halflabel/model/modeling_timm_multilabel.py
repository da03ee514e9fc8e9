"""A timm backbone with a multi-label head and a loss over the known entries, as a transformers model."""

import logging
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_outputs import ImageClassifierOutput

from .backbones import (
    check_lacking,
    check_shared,
    create_backbone,
    keep_frozen_in_eval,
    position_width,
    raise_without_safetensors,
    take_backbone,
    to_positions,
)
from .configuration_timm_multilabel import TAGS, TimmMultiLabelConfig, short_card
from .errors import OWN, HalflabelError, is_own, missing_part, part_name, shortlist
from .heads import Head, find_head
from .losses import Loss, find_loss
from .objective import masked_loss, sum_losses

log = logging.getLogger(__name__)
_STOCK = "This model card has been automatically generated."


class TimmMultiLabelForImageClassification(PreTrainedModel):
    """One network, many yes/no questions, each answered by its own sigmoid.

    The logits have shape (batch, num_labels); `logits.sigmoid()` are the scores.
    """

    config_class = TimmMultiLabelConfig
    _auto_class = "AutoModelForImageClassification"  # its code is saved beside it
    config: TimmMultiLabelConfig
    backbone: Any  # a timm model, of whose methods mypy knows nothing
    base_model_prefix = "backbone"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    accepts_loss_kwargs = True  # the Trainer then counts the known entries of a whole step and passes the count
    _supports_sdpa = True  # timm's attention layers choose their own implementation
    model_tags = TAGS

    def __init__(
        self,
        config: TimmMultiLabelConfig,
        backbone: nn.Module | None = None,
        head: type[Head] | None = None,
        loss: Callable[..., Tensor] | Loss | None = None,
    ) -> None:
        """Build the model.

        Args:
            config: Where it says `own:NAME`, the part must be given. A loss need not be for predictions.
            backbone: A timm model, used as it is; None: the one of the configuration, with random weights.
            head: A class, in the place of the configuration's.
            loss: A function of the signature of those in `LOSSES`, or a record, in the place of the configuration's.
        """
        config.validate()  # what was set since it was made too
        super().__init__(config)
        if backbone is None:
            if is_own(config.backbone):
                raise missing_part("backbone", config.backbone)
            backbone = create_backbone(config.backbone, None, **(config.backbone_args or {}))
        check_shared(backbone)
        self.backbone = backbone
        self._own_head, self._own_loss = head, loss
        self.head = self._make_head(config, head)
        self.backbone_is_frozen = False
        self.epoch: int | None = None  # epochs that are done; `trainer.TellEpoch` sets it
        try:  # some timm models have the method only to refuse
            self.backbone.set_grad_checkpointing(enable=True)
            self.backbone.set_grad_checkpointing(enable=False)
            self.supports_gradient_checkpointing = True
        except (AssertionError, AttributeError, NotImplementedError):
            self.supports_gradient_checkpointing = False
        PreTrainedModel.post_init(self)

    @classmethod
    def from_backbone(
        cls,
        backbone: str | nn.Module,
        label_names: Sequence[str],
        weights: str | Path | None = "hub",
        head: str | type[Head] = "linear",
        loss: str | Callable[..., Tensor] | Loss = "bce",
        backbone_args: dict[str, Any] | None = None,
        **config_args: Any,  # noqa: ANN401 - further configuration keys
    ) -> "TimmMultiLabelForImageClassification":
        """Start a transfer: a timm backbone with its weights and a fresh head.

        Parts of your own work as those of the package do. No file can hold them, and the log says how the saved model
        is to be loaded: `from_pretrained(folder, head=MyHead)`.

        Args:
            backbone: A timm name, like `"resnet50.a1_in1k"`; or a timm model, which is used as it is.
            label_names: The yes/no questions, in the order of the logits.
            weights: `"hub"`, `"installed"`, a path, or None (or `"none"`) for random weights; see
                `backbones.create_backbone`. A model that is given keeps its own.
            head: A key of `heads.HEADS`, or a subclass of `heads.Head`.
            loss: A key of `losses.LOSSES`, or a function of the signature of those, or a record.
            backbone_args: Keyword arguments of `timm.create_model`.
            config_args: Further keys of `TimmMultiLabelConfig`, like `normalizer="images"`.

        Raises:
            HalflabelError: On names timm does not know, or weights that cannot be had.
        """
        parts = {"backbone": backbone, "head": head, "loss": loss}
        config = TimmMultiLabelConfig(
            **{key: part_name(part) for key, part in parts.items()},
            backbone_args=backbone_args,
            id2label=dict(enumerate(label_names)),
            **config_args,
        )
        for key, part in parts.items():
            if not isinstance(part, str):
                name = part_name(part).removeprefix(OWN)
                log.warning("%s %s is not saved: load with from_pretrained(folder, %s=%s)", key, name, key, name)
        if isinstance(backbone, str):
            backbone = create_backbone(backbone, weights, **(backbone_args or {}))
        else:
            take_backbone(backbone)
        own_head, own_loss = None if isinstance(head, str) else head, None if isinstance(loss, str) else loss
        return cls(config, backbone, own_head, own_loss)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,  # noqa: ANN401 - transformers' own contract
        *model_args: Any,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401 - the model, or a pair with `output_loading_info`
        """Load a model as transformers does, but from safetensors only: no pickle is read.

        Parts that a program gave when the model was made (see `from_backbone`) are given again: `head=MyHead`.

        Raises:
            HalflabelError: If a newer halflabel saved the model, or it has no safetensors.
        """
        if not model_args:  # by keyword transformers would write them into the configuration
            model_args = tuple(
                None if isinstance(kwargs.get(key), str | None) else kwargs.pop(key)
                for key in ("backbone", "head", "loss")
            )
        try:
            return super().from_pretrained(
                pretrained_model_name_or_path, *model_args, **{**kwargs, "use_safetensors": True}
            )
        except OSError as error:
            raise_without_safetensors(pretrained_model_name_or_path, error, kwargs.get("revision"), kwargs.get("token"))
            raise

    @classmethod
    def get_init_context(cls, *args: Any) -> list[Any]:  # noqa: ANN401 - transformers' own contract
        """Leave out the random weights when weights are about to be loaded; making them takes longer than loading."""
        return [*super().get_init_context(*args), no_init_weights()]

    def _upload_modified_files(
        self,
        working_dir: str | PathLike[Any],
        repo_id: str,
        *args: Any,  # noqa: ANN401 - transformers' own contract
        **kwargs: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        card = Path(working_dir) / "README.md"
        if card.is_file() and _STOCK in card.read_text(encoding="utf-8"):  # another one stays
            card.write_text(str(short_card(self.config, repo_id)), encoding="utf-8")
        return super()._upload_modified_files(working_dir, repo_id, *args, **kwargs)

    def _make_head(self, config: TimmMultiLabelConfig, own: type[Head] | None) -> Head:
        kind = own or find_head(config.head)
        pooled = kind.consumes == "pooled"
        width = self.backbone.head_hidden_size if pooled else position_width(self.backbone)
        return kind(width, len(config.label_space), **(config.head_args or {}))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Initialise only what is ours, and what no checkpoint holds.

        `from_pretrained` builds on the meta device and leaves non-persistent buffers (rope tables, relative position
        indices) undefined; timm's own initialisation of everything else stays.
        """
        # Of a head that was loaded in part (another number of labels) only the layers that were not come here.
        partly = getattr(self.head.feature_mean, "_is_hf_initialized", False)
        if module is self.head or (partly and any(module is part for part in self.head.modules())):
            self.head.reset_parameters()
        elif callable(restore := getattr(module, "init_non_persistent_buffers", None)):
            restore()

    @torch.no_grad()
    def _move_missing_keys_from_meta_to_device(self, missing_keys: Any, *args: Any) -> None:  # noqa: ANN401 - likewise
        """Give what no file holds, and `_init_weights` leaves, the values of a new model, not memory as it was.

        These are weights of the backbone that a checkpoint lacks or has in another shape, which transformers names in
        a warning, and buffers that are not saved of parts that cannot restore them.

        Raises:
            HalflabelError: If it lacks so much that the configuration must be of another network.
        """
        check_lacking(self, missing_keys)
        saved = self.state_dict()
        buffers = [name for name, _ in self.named_buffers() if name not in saved]
        owners = {name: self.get_submodule(name.rpartition(".")[0]) for name in buffers}
        needed = [name for name in missing_keys if name.startswith("backbone.")]
        needed += [name for name, owner in owners.items() if not hasattr(owner, "init_non_persistent_buffers")]
        drawn: dict[str, Tensor] = {}
        if needed:
            own_backbone = self.backbone if is_own(self.config.backbone) else None
            new = type(self)(self.config, own_backbone, self._own_head, self._own_loss)
            drawn = dict([*new.named_parameters(), *new.named_buffers()])
        super()._move_missing_keys_from_meta_to_device(missing_keys, *args)
        for name in needed:
            self.get_parameter_or_buffer(name).copy_(drawn[name])

    def _set_gradient_checkpointing(self, enable: bool = True, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        self.backbone.set_grad_checkpointing(enable)

    def freeze_backbone(self) -> None:
        """Train the head only; the backbone also stays in evaluation mode, so that its BatchNorm does not drift."""
        self._set_frozen(True)

    def unfreeze_backbone(self) -> None:
        """Train the backbone again."""
        self._set_frozen(False)

    def _set_frozen(self, frozen: bool) -> None:
        self.backbone.requires_grad_(not frozen)
        self.backbone_is_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> "TimmMultiLabelForImageClassification":
        """Set the training mode; parts of the backbone none of whose parameters is trained stay in evaluation mode.

        The Trainer calls this at every micro-batch, so they are kept here.
        """
        super().train(mode)
        if self.backbone_is_frozen:
            self.backbone.eval()
        elif mode:
            keep_frozen_in_eval(self.backbone)
        return self

    def replace_head(
        self,
        label_names: Sequence[str],
        head: str | type[Head] | None = None,
        *,
        keep: bool = True,
        **head_args: Any,  # noqa: ANN401
    ) -> None:
        """Answer other labels with this network; labels that it answers already go on as they are.

        A label of the same name keeps its weights, factors and decision rule; shared layers and the
        standardisation stay. A new label starts fresh. The scores of the others do not change, but for rounding.

        Heads of another kind or size start fresh, and so does `ml_decoder` where labels with different queries would
        now share one (see `MlDecoderHead.rows_of_tensors`): a line in the log says so. The loss argument `prior` is
        kept where no label is new. Make an optimizer after the call, not before.

        Args:
            label_names: The new yes/no questions.
            head: A key of `heads.HEADS`, or a class; None keeps the kind of head, and its arguments where none are
                given.
            keep: False: all labels start fresh, also those of the same name, and so do the layers they share.
            head_args: Keyword arguments of the new head.

        Raises:
            HalflabelError: On names that are empty or repeated, or wrong arguments; the model is then unchanged.
        """
        old, places = self.head, {name: i for i, name in enumerate(self.config.label_space.names)}
        config = self.config.with_labels(label_names, part_name(head), head_args, keep)
        like, kind = old.feature_mean, self._own_head if head is None else None if isinstance(head, str) else head
        fresh = self._make_head(config, kind).to(like.device, like.dtype).train(self.training)
        rows = [places.get(name) for name in label_names]
        continued = keep and take_labels(fresh, old, rows)
        names = shortlist(name for name in label_names if name in places)
        if keep and not continued and names:
            log.warning("the new %s head cannot continue the old one: it starts fresh for %s", config.head, names)
        same = continued and (config.head, config.head_args) == (self.config.head, self.config.head_args or None)
        if config.decisions is not None and not same:
            config.decisions = None
            log.warning("the decisions are dropped: they belong to the old head")
        labels, factors = ("id2label", "label2id", "decisions"), ("loss_args", "pos_weight", "label_weight")
        for key in (*labels, "head", "head_args", *factors):
            setattr(self.config, key, getattr(config, key))
        self.head, self._own_head = fresh, kind

    def extract_features(self, pixel_values: Tensor) -> Tensor:
        """Run the backbone on pixels of shape (batch, channels, height, width).

        Returns:
            What the head consumes: pooled features of shape (batch, width), or where it attends over positions
            (batch, positions, width). They may be cached, and given to `forward` as `features`.
        """
        maps = self.backbone.forward_features(pixel_values)
        pooled = self.head.consumes == "pooled"
        features: Tensor = (
            self.backbone.forward_head(maps, pre_logits=True) if pooled else to_positions(maps, self.backbone)
        )
        return features

    @property
    def loss(self) -> Loss:
        """The record of the loss.

        Raises:
            HalflabelError: If it is code of a program's own that was not given again.
        """
        return find_loss(self._own_loss or self.config.loss)

    def _masked_loss(self, logits: Tensor, labels: Tensor, counts: Tensor | int | None) -> Tensor:
        config = self.config
        if self.loss.uses_epoch and self.training and self.epoch is None:
            raise HalflabelError(
                f"loss {config.loss!r} depends on the epoch: train it with halflabel.MultiLabelTrainer, "
                "or add halflabel.trainer.TellEpoch() to the Trainer's callbacks"
            )
        return masked_loss(
            logits, labels, self._own_loss or config.loss, config.normalizer, counts,
            **self._label_factors(logits), epoch=self.epoch or 0, **(config.loss_args or {}),
        )  # fmt: skip

    def _label_factors(self, like: Tensor) -> dict[str, Tensor | None]:
        factors = (("pos_weight", self.config.pos_weight), ("label_weight", self.config.label_weight))
        return {key: None if given is None else like.new_tensor(given, dtype=torch.float32) for key, given in factors}

    def sum_losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return each label's weighted sum of the loss over the entries that take part, shape (num_labels,), float32.

        `labels` are such that `forward` took them; who has the sums of all batches divides by `objective.label_scale`.
        """
        factors, loss = self._label_factors(logits), self._own_loss or self.config.loss
        arguments = {"epoch": self.epoch or 0, **(self.config.loss_args or {})}
        sums = sum_losses(logits.float(), labels.float(), loss, factors["pos_weight"], **arguments)
        return sums if factors["label_weight"] is None else sums * factors["label_weight"]

    def forward(
        self,
        pixel_values: Tensor | None = None,
        features: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Compute logits, and the loss where labels are given.

        Args:
            pixel_values: Shape (batch, channels, height, width), as the image processor gives them.
            features: What `extract_features` returned; the backbone is skipped. Give exactly one of the two.
            labels: Float, shape (batch, num_labels): 1, 0, or `IGNORE_INDEX` for unknown.
            num_items_in_batch: The counts of the whole optimizer step, see `losses.masked_loss`; the Trainer passes it.
            return_dict: False gives a tuple instead of an `ImageClassifierOutput`.

        Raises:
            HalflabelError: If not exactly one input is given, or the labels are not of that form.
        """
        if (pixel_values is None) == (features is None):
            raise HalflabelError("give exactly one of pixel_values and features")
        if features is None:
            assert pixel_values is not None
            given = next(self.parameters(), self.head.feature_mean)  # a replica of nn.DataParallel has buffers alone
            features = self.extract_features(pixel_values.to(given.dtype))
        logits = self.head(features)
        loss = None
        if labels is not None:
            loss = self._masked_loss(logits, labels, num_items_in_batch)
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutput(loss=loss, logits=logits)


@torch.no_grad()
def take_labels(head: Head, old: Head, rows: Sequence[int | None]) -> bool:
    """Have a head continue another one: what all labels share, and the rows of labels that it has.

    Args:
        head: It is changed.
        old: The head of which it is to be the successor.
        rows: For each label of the head its number in the old one; None: it is new and stays as drawn.

    Returns:
        False where the heads differ in kind, in `power` or in the size of a layer: then only the standardisation is
        taken, and that only from a head that consumes the same features in the same power.
    """
    alike = head.consumes == old.consumes and head.power == old.power
    if alike:
        head.feature_mean.copy_(old.feature_mean)
        head.feature_scale.copy_(old.feature_scale)
    mine, theirs = head.state_dict(), old.state_dict()  # the tensors themselves, detached
    if not alike or type(head) is not type(old) or _shared(mine, head.per_label) != _shared(theirs, old.per_label):
        return False
    sources = head.rows_of_tensors(old, rows)
    if sources is None:
        return False
    for name, value in mine.items():
        if name not in sources:
            value.copy_(theirs[name])
            continue
        dim = head.per_label[name]
        new = torch.tensor([i for i, row in enumerate(sources[name]) if row is not None], dtype=torch.long)
        kept = torch.tensor([row for row in sources[name] if row is not None], dtype=torch.long)
        taken = theirs[name].index_select(dim, kept.to(theirs[name].device))
        value.index_copy_(dim, new.to(value.device), taken.to(value.device, value.dtype))
    return True


def _shared(state: Mapping[str, Tensor], per_label: Mapping[str, int]) -> dict[str, list[int]]:
    """Return the shape of every tensor; the dimension of its rows is left out."""
    shapes = {name: list(value.shape) for name, value in state.items()}
    for name, dim in per_label.items():
        del shapes.get(name, [0] * (dim + 1))[dim]
    return shapes
