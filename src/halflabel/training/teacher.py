"""A teacher for the unknown entries: the moving average of the weights, which sees the picture without augmentation.

Where an image's label is unknown, the student (the network in training, on the augmented picture) learns what the
teacher answers for the plain picture, as far as the teacher is sure. From Tarvainen & Valpola 2017, "Mean teachers are
better role models", with a gate as in FixMatch (Sohn et al. 2020) which is each label's own, as in Xie et al. 2023,
"Class-Distribution-Aware Pseudo-Labeling for Semi-Supervised Multi-Label Learning".
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import reduce
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset

from ..model.labels import IGNORE_INDEX
from ..model.losses import masked_loss
from .averaging import AverageWeights, averaging_decay
from .trainer import MultiLabelTrainer

PLAIN, UNKNOWN = "plain_pixel_values", "unknown_entries"
_HISTOGRAM = "teacher.histogram"
_HIGHEST, _PER_LOGIT = 12, 10  # logits are counted in steps of 0.1 from -12 to 12
BINS = 2 * _HIGHEST * _PER_LOGIT


class TwoViews(Dataset[dict[str, Any]]):
    """Training items with the plain picture beside the augmented one (`plain_pixel_values`), and `unknown_entries`."""

    def __init__(
        self, augmented: Dataset[dict[str, Any]], plain: Dataset[dict[str, Any]], unknown: NDArray[np.bool_]
    ) -> None:
        """Keep two data sets of the same pictures, and which of their entries are taught, shape (n, num_labels)."""
        self.augmented = augmented
        self.plain = plain
        self.unknown = torch.from_numpy(unknown)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.augmented)  # type: ignore[arg-type]

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Return both views; the plain one draws nothing, so that the augmented one is what it is without it."""
        both = {**self.augmented[position], PLAIN: self.plain[position]["pixel_values"]}
        return both | {UNKNOWN: self.unknown[position]}


def ramp_up(done: float, ramp: float) -> float:
    """Return exp(-5 (1 - t)^2), t = done / ramp up to 1 (Laine & Aila 2017): a young teacher knows little.

    Args:
        done: Share of the training steps that are done, in 0..1.
        ramp: Share of them over which the weight rises, in 0..1.
    """
    t = 1.0 if done >= ramp else done / ramp
    return math.exp(-5 * (1 - t) ** 2)


def to_bins(logits: Tensor) -> Tensor:
    """Return where a logit is counted, int64 in 0..BINS - 1."""
    return ((logits.float() + _HIGHEST) * _PER_LOGIT).floor().clamp(0, BINS - 1).long()


def open_bins(histogram: Tensor, prevalence: Tensor, share: float) -> Tensor:
    """Return which logits are sure enough to teach.

    With a prevalence of 0.1 and a share of 0.8, these are the highest 8 % and the lowest 72 % of a label's logits, so
    that a rare label has as good a chance to teach its yes as a common one; one threshold for all would leave it none.

    Args:
        histogram: Of each label's logits, shape (num_labels, BINS).
        prevalence: The share of yes, shape (num_labels,); NaN closes all bins of a label.
        share: The share of a label's entries that teach, in (0, 1].

    Returns:
        bool of shape (num_labels, BINS). A bin in which a limit falls is open; where nothing was counted all are shut.
    """
    total = histogram.sum(dim=1, keepdim=True)
    mass = histogram / total.clamp(min=torch.finfo(histogram.dtype).tiny)
    below = mass.cumsum(dim=1) - mass
    above = mass.flip(1).cumsum(dim=1).flip(1) - mass
    yes, no = share * prevalence[:, None], share * (1 - prevalence[:, None])
    return ((above < yes) | (below < no)) & (total > 0)


class Teacher(AverageWeights):
    """The average of the weights that `AverageWeights` keeps, evaluates and saves, which also teaches.

    What it is sure of depends on its logits for unknown entries in the steps before, as many as the weights are
    averaged over; their histogram goes into checkpoints with the average.
    """

    def __init__(
        self,
        decay: float,
        prevalence: Tensor,
        weight: float = 1.0,
        ramp: float = 0.3,
        share: float = 0.8,
        checkpoint: str | Path | None = None,
    ) -> None:
        """Set how much is learned from it.

        Args:
            decay: See `AverageWeights`.
            prevalence: See `open_bins`.
            weight: Weight of what is learned from the teacher; a known entry's is 1.
            ramp: See `ramp_up`.
            share: See `open_bins`.
            checkpoint: See `resuming.KeepTrainingWeights`.
        """
        super().__init__(decay, checkpoint)
        self.prevalence, self.weight, self.ramp, self.share = prevalence, weight, ramp, share
        self.histogram, self.counted = torch.zeros(2, len(prevalence), BINS)  # over the steps before, and in this one

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Start with nothing counted, or go on with the checkpoint's."""
        self.prevalence = self.prevalence.to(model.device)
        self.histogram, self.counted = torch.zeros(2, len(self.prevalence), BINS, device=model.device)
        super().on_train_begin(args, state, control, model=model)

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return the weights, and the histogram."""
        return {**super().training_weights(model), _HISTOGRAM: self.histogram}

    def restore(self, model: nn.Module, stored: dict[str, Tensor]) -> None:
        """Take all back."""
        super().restore(model, stored)
        self.histogram.copy_(stored[_HISTOGRAM])

    def _update(self, weights: dict[str, Tensor], steps: int) -> None:
        super()._update(weights, steps)
        self.histogram.lerp_(reduce(self.counted, "sum"), 1 - averaging_decay(self.decay, steps))
        self.counted.zero_()

    @torch.no_grad()
    def targets(self, model: nn.Module, pixel_values: Tensor, unknown: Tensor) -> Tensor:
        """Return what the teacher answers.

        Args:
            model: The student, not wrapped.
            pixel_values: Plain pictures, shape (batch, channels, height, width).
            unknown: Where something is to be taught, shape (batch, num_labels).

        Returns:
            Scores in 0..1 where unknown and sure, else `IGNORE_INDEX`; float32, shape (batch, num_labels).
        """
        targets = torch.full(unknown.shape, float(IGNORE_INDEX), device=unknown.device)
        rows = unknown.any(dim=1)
        if not bool(rows.any()):
            return targets
        model.eval()
        logits = functional_call(model, self.average, (pixel_values[rows],)).logits.float()
        model.train()
        bins, labels = to_bins(logits), torch.arange(unknown.shape[1], device=unknown.device).expand(len(logits), -1)
        self.counted.index_put_((labels, bins), unknown[rows].float(), accumulate=True)
        sure = open_bins(self.histogram, self.prevalence, self.share)[labels, bins]
        targets[rows] = torch.where(unknown[rows] & sure, logits.sigmoid(), IGNORE_INDEX)
        return targets

    def open_share(self) -> float:
        """Return the share of the unknown entries in the last steps that the gates of now let through, in 0..1."""
        is_open = open_bins(self.histogram, self.prevalence, self.share)
        return float((self.histogram * is_open).sum() / self.histogram.sum())


class TeacherStudentTrainer(MultiLabelTrainer):
    """`MultiLabelTrainer` with a teacher's answers for unknown entries, exact in the same sense.

    The loss of a step is that of the known entries plus w times the binary cross-entropy to the teacher's scores,
    summed over the step's unknown entries and divided as the normalizer says by their number in the whole step on
    all devices. An entry that the teacher is not sure of contributes 0 and is counted, so that few sure entries weigh
    little. `pos_weight` does not apply, which would teach a higher score than the teacher's.
    """

    def __init__(self, *args: Any, teacher: Teacher, **kwargs: Any) -> None:  # noqa: ANN401
        """Take what `MultiLabelTrainer` takes.

        Args:
            args: Its positional arguments.
            teacher: Must be among the callbacks too.
            kwargs: Its keyword arguments; the training data gives items of `TwoViews`.
        """
        super().__init__(*args, **kwargs)
        self.teacher = teacher
        self._unknown_counts: Tensor | None = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Also count the step's unknown entries."""
        batches, counts = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            unknown = self._sum_over_processes(torch.stack([batch[UNKNOWN].sum(dim=0) for batch in batches]), device)
            self._unknown_counts = torch.cat([unknown, torch.as_tensor(counts, device=device).reshape(-1)[-1:]])
        return batches, counts

    def _without_repeats(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Nothing is taught in an image that only fills up the last step."""
        repeated = self._repeated(len(batch["labels"])).to(batch["labels"].device)
        return {**super()._without_repeats(batch), UNKNOWN: batch[UNKNOWN] & ~repeated[:, None]}

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 - transformers' own contract
        """Add what the student learns from the teacher; in evaluation there is nothing to add."""
        if UNKNOWN not in inputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        plain, unknown = inputs.pop(PLAIN), inputs.pop(UNKNOWN)
        student: Any = self.accelerator.unwrap_model(self.model)
        targets = self.teacher.targets(student, plain, unknown)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        weight = student.config.label_weight
        taught = masked_loss(
            outputs.logits,
            targets,
            normalizer=student.config.normalizer,
            num_items_in_batch=self._unknown_counts,
            label_weight=None if weight is None else outputs.logits.new_tensor(weight, dtype=torch.float32),
        )
        done = self.state.global_step / self.state.max_steps
        scale = self.teacher.weight * ramp_up(done, self.teacher.ramp)
        loss = loss + scale * self.accelerator.num_processes * taught  # gradients are averaged over processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Beside the training loss, also say how much of what is unknown is taught."""
        if "loss" in logs:
            logs["taught_share"] = round(self.teacher.open_share(), 4)
        super().log(logs, start_time)
