"""A moving average of the weights: what is evaluated, chosen and saved, while the weights themselves are trained on."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..model.errors import HalflabelError
from .resuming import KeepTrainingWeights, copy_weights, weights_of

_AVERAGE = "average."


def averaging_decay(decay: float, steps: int) -> float:
    """Return the share of the old average that is kept: min(decay, (1 + steps) / (10 + steps)).

    The second term (TensorFlow's ExponentialMovingAverage) makes the average forget the first weights soon.

    Args:
        decay: The largest share.
        steps: How often was averaged before.
    """
    return min(decay, (1 + steps) / (10 + steps))


class AverageWeights(KeepTrainingWeights):
    """Average the weights over the optimizer steps, and show the average to everything but training.

    average <- d * average + (1 - d) * weights after each optimizer step, with d of `averaging_decay` (Polyak &
    Juditsky 1992; Tarvainen & Valpola, arXiv 1703.01780). The average starts as the first weights. While the Trainer
    evaluates or saves, and when training ends, the model holds the average: the best epoch is the average's best, and
    each checkpoint and the final folder are models of averaged weights. What is trained lies beside them in
    `training_weights.safetensors`, for resuming.

    Floating-point buffers are averaged too, as timm's ModelEmaV3 does: BatchNorm's running statistics belong to the
    weights they were measured with, and so lag as much as the averaged weights do. Integers stay those of the training.

    The average lies where the model does, and takes as much memory; while it is shown, twice as much.
    """

    def __init__(self, decay: float, checkpoint: str | Path | None = None) -> None:
        """Set what is kept of the average at each step.

        Args:
            decay: In (0, 1), like 0.999: the average is then over about the last 1000 steps.
            checkpoint: See `resuming.KeepTrainingWeights`.

        Raises:
            HalflabelError: If the decay is out of range.
        """
        if not 0 < decay < 1:
            raise HalflabelError(f"ema_decay is {decay}, expected between 0 and 1, like 0.999")
        super().__init__(checkpoint)
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        self.hidden: dict[str, Tensor] | None = None  # the trained weights, while the model holds the average

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the trained and the averaged weights."""
        trained = weights_of(model) | (self.hidden or {})
        average = {f"{_AVERAGE}{name}": tensor for name, tensor in self.average.items()}
        return {f"trained.{name}": tensor for name, tensor in trained.items()} | average

    def restore(self, model: nn.Module, stored: dict[str, Tensor]) -> None:
        """Take back both."""
        super().restore(model, stored)
        copy_weights({name.removeprefix(_AVERAGE): tensor for name, tensor in stored.items()}, self.average)

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the average, or go on with that of the checkpoint.

        Raises:
            HalflabelError: If the weights are not of float32 or float64, which a small step would not change.
        """
        weights = weights_of(model)
        coarse = [name for name, w in weights.items() if w.is_floating_point() and torch.finfo(w.dtype).bits < 32]
        if coarse:
            raise HalflabelError(f"averaging needs float32 weights; {coarse[0]} is {weights[coarse[0]].dtype}")
        self.hidden = None
        self.average = {name: tensor.clone() for name, tensor in weights.items() if tensor.is_floating_point()}
        super().on_train_begin(args, state, control, model=model)
        self._show(model)  # for an evaluation at the start

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Go on with training."""
        self._hide(model)

    on_step_begin = on_epoch_begin

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Average; show the average where the Trainer evaluates or saves next."""
        self._update(weights_of(model), state.global_step - 1)
        if control.should_evaluate or control.should_save:
            self._show(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Show the average: the Trainer evaluates or saves next, or training is over."""
        self._show(model)

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Leave the model with what it holds, the average or the best one, and free the rest."""
        self.hidden, self.average = None, {}

    @torch.no_grad()
    def _update(self, weights: dict[str, Tensor], steps: int) -> None:
        update = get_ema_multi_avg_fn(averaging_decay(self.decay, steps))
        update(list(self.average.values()), [weights[name] for name in self.average], None)

    def _show(self, model: nn.Module) -> None:
        if self.hidden is None:
            weights = weights_of(model)
            self.hidden = {name: weights[name].clone() for name in self.average}
            copy_weights(self.average, {name: weights[name] for name in self.average})

    def _hide(self, model: nn.Module) -> None:
        if self.hidden is not None:
            weights = weights_of(model)
            copy_weights(self.hidden, {name: weights[name] for name in self.hidden})
            self.hidden = None
