"""Gradual unfreezing: the head is trained first, then one layer group of the backbone after another."""

import logging
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerState

from ..model.errors import HalflabelError
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification
from .transfer import layer_groups

log = logging.getLogger(__name__)


class UnfreezeGradually(TrainerCallback):
    """Train the head alone at first, and the next layer group below after every so many epochs.

    After `k * every` epochs the last k of the backbone's `transfer.layer_groups` are trained (ULMFiT, arXiv
    1801.06146). A group that is not yet trained has no gradient, so that no optimizer moves or decays it, and is in
    evaluation mode. What `transfer.freeze` froze stays frozen. How far it is follows from the epoch alone, so that a
    resumed run goes on as if it had not stopped.

    The optimizer and DistributedDataParallel must know all parameters from the start, so this callback freezes when
    training begins: build the model trainable. On several devices `ddp_find_unused_parameters` has to be true, which
    is the Trainer's default without activation checkpointing.
    """

    def __init__(self, every: float) -> None:
        """Set the pace.

        Args:
            every: Epochs per layer group, above 0, also below 1. A pass over a stream, which has no length, counts
                as one epoch for the whole of `max_steps`, so that 0.1 is a tenth of the training there.

        Raises:
            HalflabelError: If `every` is not above 0.
        """
        if not 0 < every < float("inf"):
            raise HalflabelError(f"unfreeze_every is {every}, expected above 0, in epochs per layer group")
        self.every = every
        self.groups: list[list[nn.Parameter]] | None = None  # from the head down
        self.trained = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Freeze what is not trained yet.

        Raises:
            HalflabelError: If the whole backbone is frozen, timm names no layer groups, or gradients of several
                devices would wait for frozen parameters.
        """
        find_unused = args.ddp_find_unused_parameters
        if find_unused is None:
            find_unused = not args.activation_checkpointing  # as the Trainer decides
        if args.world_size > 1 and not find_unused:
            raise HalflabelError("unfreeze_every on several devices needs ddp_find_unused_parameters: true")
        if self.groups is None:
            self.groups = _trainable_groups(model)
        for parameter in (parameter for group in self.groups for parameter in group):
            parameter.requires_grad_(False)
        self.trained = 0
        self._unfreeze(model, state)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Train the next group where its time has come."""
        self._unfreeze(model, state)

    def _unfreeze(self, model: nn.Module, state: TrainerState) -> None:
        assert self.groups is not None
        due = int((state.epoch or 0.0) / self.every + 1e-6)
        for group in self.groups[self.trained : due]:
            for parameter in group:
                parameter.requires_grad_(True)
        if due > self.trained and self.trained < len(self.groups):
            log.info("epoch %.2f: %d of %d layer groups are trained", state.epoch, due, len(self.groups))
        self.trained = due


def _trainable_groups(model: TimmMultiLabelForImageClassification) -> list[list[nn.Parameter]]:
    """Return the parameters of each layer group that are to be trained, the group at the head first."""
    numbers, count = layer_groups(model.backbone)
    groups: list[list[nn.Parameter]] = [[] for _ in range(count)]
    for name, parameter in model.backbone.named_parameters():
        if parameter.requires_grad and numbers[name] < count:
            groups[count - 1 - numbers[name]].append(parameter)
    if not any(groups):
        raise HalflabelError("unfreeze_every: the whole backbone is frozen, so there is nothing to unfreeze")
    return groups
