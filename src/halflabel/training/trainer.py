"""The Trainer with exact counts, and how a recipe's is made.

What a loss is divided by is counted over the whole optimizer step on all devices.
"""

import copy
import itertools
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.utils import extract_model_from_parallel
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from tqdm.auto import tqdm
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer import DEFAULT_PROGRESS_CALLBACK
from transformers.trainer_callback import PrinterCallback, ProgressCallback
from transformers.trainer_utils import EvalLoopOutput, SchedulerType, unwrap_peft_model

from ..data.pixels import FeatureDataset, PixelDataset, collate
from ..metrics.trainer import BatchMetrics, describe_log, trainer_metrics
from ..model.configuration_timm_multilabel import short_card
from ..model.decisions import check_logits
from ..model.errors import HalflabelError
from ..model.labels import IGNORE_INDEX, UNCERTAIN, count_labels
from ..model.losses import Loss
from ..model.modeling_timm_multilabel import TimmMultiLabelForImageClassification as Model
from ..model.objective import count_items, label_scale
from .checkpoints import KeepTrainingWeights, WholeCheckpoints, checkpoints_in
from .preparation import TrainingData, head_weight_decay
from .recipe import Recipe
from .transfer import AverageWeights, optimizer_cls_and_kwargs

log = logging.getLogger(__name__)
_REPEATED = "repeated_images"


def own_model(model: Any) -> Model:  # noqa: ANN401 - a module
    """Look through what wraps a model: several devices, compilation, peft.

    Raises:
        HalflabelError: If it is not one of halflabel.
    """
    found = unwrap_peft_model(extract_model_from_parallel(model, keep_torch_compile=False))
    if not isinstance(found, Model):
        raise HalflabelError(f"MultiLabelTrainer trains models of halflabel, not a {type(found).__name__}")
    return found


class TellEpoch(TrainerCallback):
    """Tell the model and the training data how many epochs are done; a resumed run is told right too.

    Some losses change with the epochs, and so does what is shown of an image: the draws of its transform, or the next
    of its views. A model that is trained further loses its decisions, which were fitted to its scores.
    """

    def __init__(self, dataset: Any = None, images_in_stream: int | None = None) -> None:  # noqa: ANN401 - any data set
        """Keep what is told.

        Args:
            dataset: The training data; only ours are told. Accelerate tells them too, but not on several devices.
            images_in_stream: How many images a pass over a stream has, which has no epochs of its own; None: no stream.
        """
        self.dataset = dataset if isinstance(dataset, PixelDataset | FeatureDataset) else None
        self.images_in_stream = images_in_stream

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Refuse a configuration that could not be saved; drop decisions, which belong to the weights as they were."""
        config = own_model(model).config
        config.validate()
        if config.decisions is not None:
            config.decisions = None
            log.warning("the decisions are dropped: training changes the scores they were fitted on; calibrate again")

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Tell the whole number of epochs done; a run resumed within an epoch has a fraction more."""
        epoch = own_model(model).epoch = int((state.epoch or 0) + 1e-6)
        if self.dataset is not None:
            self.dataset.set_epoch(epoch)

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Count the passes over a stream."""
        if self.images_in_stream:
            images = state.global_step * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
            own_model(model).epoch = images // self.images_in_stream


class SaveAndStop(TrainerCallback):
    """Write a checkpoint after the step that is on its way, and stop, where somebody asks for it: at SIGTERM.

    It must stand before callbacks that do something for a checkpoint. Of several processes all stop at the same step.
    """

    running = asked = False
    """Whether a training goes on in this process, and whether it is to stop."""

    stops = False
    """Whether this step is the last; of several processes one that stops alone would leave the others waiting."""

    @classmethod
    def ask(cls) -> bool:
        """Ask the training that goes on to stop; False where there is none, or it was asked before."""
        heard = cls.running and not cls.asked
        cls.asked = cls.asked or heard
        return heard

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Listen, unless no checkpoints are wanted."""
        SaveAndStop.running, SaveAndStop.asked = args.save_strategy != "no", False

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Have a checkpoint written."""
        self.stops = self.running and self.asked
        if self.running and args.world_size > 1:
            heard = torch.tensor(float(self.stops), device=args.device)
            torch.distributed.all_reduce(heard)
            self.stops = bool(heard)
        control.should_save |= self.stops

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Stop, now that it is there.

        Raises:
            KeyboardInterrupt: As for Ctrl-C.
        """
        if self.stops:
            raise KeyboardInterrupt


class MultiLabelTrainer(WholeCheckpoints):
    """`transformers.Trainer` for `TimmMultiLabelForImageClassification`: every normalizer and every loss is exact.

    The stock Trainer counts the known entries of a step, which is all that `normalizer="labels"` needs with bce, focal
    and asl. This one counts what `losses.count_items` counts, adds it up over accumulated batches and devices, and
    leaves out the images that Accelerate repeats to fill the last step of an epoch on several devices.

    The loss of an evaluation or a prediction (`eval_loss`, `test_loss`) is the model's over the known entries of all
    images at once, whatever the batches and processes, also of a model that learns from unknown ones; it is NaN where
    nothing is known, and not there with a `compute_loss_func`, of which only means of batches are known.

    A loss that is not finite ends the training. Checkpoints are those of `WholeCheckpoints`, and a card that is there
    stays. Everything else is the stock Trainer.

    Raises:
        HalflabelError: If `average_tokens_across_devices` is off on several devices: each would divide by its own.
    """

    def __init__(self, *args: Any, images_in_stream: int | None = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Take what `transformers.Trainer` takes; `images_in_stream` is for a stream, see `TellEpoch`."""
        self._evaluated: list[Tensor] = []
        self._first_step = 0
        super().__init__(*args, **kwargs)
        if self.args.batch_eval_metrics and self.compute_metrics is trainer_metrics:
            self.compute_metrics = BatchMetrics()
        if max(self.args.world_size, self.args.n_gpu) > 1 and not self.args.average_tokens_across_devices:
            raise HalflabelError("average_tokens_across_devices must be true on several devices for an exact loss")
        self.add_callback(TellEpoch(self.train_dataset, images_in_stream))

    def train(self, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        """Train; what breaks off is told on a line of its own, below the bar.

        Raises:
            KeyboardInterrupt: See `SaveAndStop`. Asked after the last step, what follows goes on from its checkpoint.
        """
        try:
            trained = super().train(*args, **kwargs)
            if SaveAndStop.asked:
                raise KeyboardInterrupt
            return trained
        finally:
            SaveAndStop.running = SaveAndStop.asked = False
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, ProgressCallback) and callback.training_bar is not None:
                    callback.training_bar.close()

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - transformers' own contract
        """Stop at the first loss that is not finite, before it reaches the weights; the stock Trainer hides it.

        Raises:
            HalflabelError: In every process, whichever of them it was. It names the learning rate.
        """
        loss = super().training_step(*args, **kwargs)
        self._stop_unless("loss", loss.isfinite().all())
        return loss

    def _init_training_state(self, *args: Any) -> Any:  # noqa: ANN401 - transformers' own contract
        found = super()._init_training_state(*args)
        self._first_step = self.state.global_step
        return found

    def _maybe_log_save_evaluate(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Neither evaluate nor save weights that are not finite, which a loss may leave that was."""
        if (self.control.should_evaluate or self.control.should_save) and not self.is_fsdp_enabled:
            model = self.accelerator.unwrap_model(self.model)
            changing = [weight for weight in model.parameters() if weight.requires_grad]
            changing += [buffer for name, buffer in model.named_buffers() if "running_" in name]  # of BatchNorm
            self._stop_unless("weight", torch.stack([weight.isfinite().all() for weight in changing]).all())
        super()._maybe_log_save_evaluate(*args, **kwargs)

    def _stop_unless(self, what: str, finite: Tensor) -> None:
        """Stop all processes together where one of them has something that is not finite."""
        if self.args.world_size > 1:
            finite = self.accelerator.gather(finite.int()[None])
        if finite.all():
            return
        checkpoints = checkpoints_in(Path(self._get_output_dir(None)))
        kept = f"{checkpoints[-1]} is kept" if checkpoints else "there is no checkpoint yet"
        step = self.state.global_step + (what == "loss")
        raise HalflabelError(
            f"step {step} of {self.state.max_steps} has a {what} that is not finite, and training has stopped: "
            f"start afresh in another --output_dir with a --learning_rate below {self.args.learning_rate:g}; {kept}"
        )

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - transformers' own contract
        """Write a short card of ours where there is no card."""
        path = Path(str(self.args.output_dir), "README.md")
        if self.is_world_process_zero() and not path.exists():
            config = own_model(self.model).config
            path.write_text(str(short_card(config, self.hub_model_id or path.parent.name)), encoding="utf-8")

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Have the loss of an evaluation or a prediction divided once, by what all batches hold, not batch by batch.

        What an evaluation left when it broke off is measured in none. In training each process has its own statistics
        of BatchNorm: all take those of the first, which are saved.
        """
        self._evaluated = []
        if self.args.world_size > 1:
            for buffer in self._network.buffers():
                torch.distributed.broadcast(buffer, 0)
        if isinstance(self.compute_metrics, BatchMetrics):
            self.compute_metrics.begin()
        output = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        metrics, key = output.metrics or {}, f"{metric_key_prefix}_loss"
        if "loss" in self.args.include_for_metrics:  # else the stock one was told of no loss
            metrics.pop(key, None)
        if self._evaluated:
            metrics.setdefault(key, self._evaluated_loss())
        return output._replace(metrics=metrics)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Put aside what the loss of the known entries is made of, where the loss is the model's own.

        Raises:
            HalflabelError: If a logit is not finite, also of an unknown entry.
        """
        loss, logits, labels = super().prediction_step(model, inputs, False, ignore_keys)
        if isinstance(logits, Tensor) and not bool(logits.isfinite().all()):
            check_logits(logits.float().cpu().numpy(), self._network.config.label_space.names)
        if loss is not None and self.compute_loss_func is None and isinstance(logits, Tensor):
            batch = self._without_repeats({"labels": labels})
            batch["labels"] = batch["labels"].masked_fill(batch["labels"] < 0, self._no_part)
            sums = self._network.sum_losses(logits, batch["labels"])
            self._evaluated.append(torch.cat([sums, self._count(batch)]))
        loss = loss if "loss" in self.args.include_for_metrics else None
        return (loss, None, None) if prediction_loss_only else (loss, logits, labels)

    def _evaluated_loss(self) -> float:
        """Return the model's loss over the known entries of all batches and processes; NaN where nothing is known."""
        totals = torch.stack(self._evaluated).cpu().double().sum(dim=0)  # not every device has doubles
        if self.args.world_size > 1:
            totals = self.accelerator.gather(totals[None].to(self.args.device)).sum(dim=0).cpu()
        sums, counts = totals.split([len(totals) // 2, len(totals) // 2 + 1])
        scale = label_scale(counts, self._loss, self._network.config.normalizer, len(sums))
        return float((sums * scale).sum()) if counts[:-1].any() else math.nan

    @property
    def has_stepped(self) -> bool:
        """Whether an optimizer step is done since training started or went on."""
        return self.state.global_step > self._first_step

    @property
    def _network(self) -> Model:
        return own_model(self.model)

    @property
    def _loss(self) -> Loss:
        return self._network.loss

    @property
    def _no_part(self) -> int:
        """What a label is where the entry takes no part in the loss."""
        return UNCERTAIN if self._loss.uses_unknown else IGNORE_INDEX

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor | int | None]:
        """Collect the batches of a step, take repeated images out of them, and count."""
        images = self.train_dataset
        count = None if isinstance(images, IterableDataset) else len(cast(Any, images))
        batches = [self._without_repeats(batch, count) for batch in itertools.islice(epoch_iterator, num_batches)]
        return batches, self._get_num_items_in_batch(batches, device)

    def _without_repeats(self, batch: dict[str, Any], count: int | None = None) -> dict[str, Any]:
        """Take the labels from images that only fill up the last step; they also count for nothing.

        Accelerate fills it so that every process has a whole batch. How many images in it are not repeats, counted
        through the processes in order, it says but to a run that goes on within an epoch: that gives their `count`.
        """
        state, labels = self.accelerator.gradient_state, batch["labels"]
        if self.args.world_size == 1 or not state.end_of_dataloader or self.args.dataloader_drop_last:
            return batch
        new = state.remainder if count is None else count % (self.args.world_size * len(labels))
        if new <= 0:
            return batch
        first = self.args.process_index * len(labels)
        repeated = torch.arange(first, first + len(labels), device=labels.device) >= new
        return {**batch, "labels": labels.masked_fill(repeated[:, None], self._no_part), _REPEATED: repeated}

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Tensor | int | None:
        """Count a step's entries per label and its images, over all processes; shape (num_labels + 1,)."""
        if not batch_samples or "labels" not in batch_samples[0]:
            return None
        counts = torch.stack([self._count(batch) for batch in batch_samples]).sum(dim=0).to(device)
        if self.args.world_size > 1:
            counts = self.accelerator.gather(counts[None]).sum(dim=0)
        return counts.expand(self.args.n_gpu, -1) if self.args.n_gpu > 1 else counts

    def _count(self, batch: dict[str, Any]) -> Tensor:
        counts = count_items(batch["labels"], self._loss)
        repeated = batch.pop(_REPEATED, None)  # the model knows nothing of it
        if repeated is not None:
            counts[-1] -= repeated.sum()
        return counts


class Progress(ProgressCallback):
    """The Trainer's progress bar as one live line: what was logged last stands behind it; evaluation has no bar.

    With `lines` every log is a line of its own instead. Where `disable_tqdm` is set there is no bar, but these lines.
    """

    def __init__(self, lines: bool = False) -> None:
        """Say whether logs are lines."""
        super().__init__()
        self.lines = lines

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Start the bar."""
        self.current_step = 0
        if state.is_world_process_zero:
            bar: Any = tqdm(total=state.max_steps, dynamic_ncols=True, disable=args.disable_tqdm)
            self.training_bar = bar

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:  # noqa: ANN401
        """Show what was logged."""
        if self.training_bar is not None and logs:
            show = self.training_bar.write if self.lines else self.training_bar.set_postfix_str
            show(describe_log(logs))

    def on_prediction_step(self, args: Any, state: Any, control: Any, *_: Any, **kwargs: Any) -> None:  # noqa: ANN401
        """Show nothing."""


def make_trainer(recipe: Recipe, model: Model, datasets: dict[str, Any], data: TrainingData) -> MultiLabelTrainer:
    """Return the Trainer of a recipe, which validates where there is a validation split that can be measured.

    Raises:
        HalflabelError: On settings that contradict the data.
    """
    arguments, keys, train = copy.copy(recipe.arguments), recipe.training, datasets["train"]
    validated = False
    if "validation" in datasets:  # an epoch cannot be the best by a measure that is undefined
        counts = count_labels(datasets["validation"].labels)
        validated = bool(((counts.positive > 0) & (counts.negative > 0)).any())
    if "validation" in datasets and not validated:
        log.warning("no label has both a known yes and a known no in the validation split: the last epoch is kept")
    scheduler, strategies = arguments.lr_scheduler_type, (arguments.eval_strategy, arguments.save_strategy)
    if not validated:
        for name, asked in {
            "early_stopping_patience": keys.early_stopping_patience is not None,
            "save_strategy best": arguments.save_strategy == "best",
            f"lr_scheduler_type {SchedulerType(scheduler).value}": scheduler in ("reduce_lr_on_plateau", "greedy"),
        }.items():
            if asked:
                raise HalflabelError(f"{name} needs a validation split: set validation_share above 0")
        arguments.eval_strategy = arguments.eval_strategy.__class__("no")
        arguments.load_best_model_at_end = False
    elif not (arguments.load_best_model_at_end or "load_best_model_at_end" in recipe.said or "no" in strategies):
        log.warning("eval_strategy and save_strategy differ, so the last model is kept, not the best")
    callbacks: list[TrainerCallback] = [SaveAndStop()]  # and what happens to the weights
    if keys.ema_decay is not None:
        callbacks.append(AverageWeights(keys.ema_decay))
    elif keys.lora_rank is not None:
        callbacks.append(KeepTrainingWeights())
    if data.stream is not None:
        config: Any = copy.copy(arguments.accelerator_config)  # by now no mapping any more
        if config.dispatch_batches is None:
            config.dispatch_batches = False  # each reads its own shards
        arguments.accelerator_config = config
    if keys.early_stopping_patience is not None:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=keys.early_stopping_patience))
    decay = head_weight_decay(recipe, model, train, data.target_counts(recipe))
    with recipe.argument_faults_told():
        trainer = MultiLabelTrainer(
            model=model,
            args=arguments,
            data_collator=collate,
            train_dataset=train,
            eval_dataset=datasets["validation"] if validated else None,
            compute_metrics=BatchMetrics() if arguments.batch_eval_metrics else trainer_metrics,
            callbacks=callbacks,
            optimizer_cls_and_kwargs=optimizer_cls_and_kwargs(
                arguments, keys.layer_decay, keys.head_lr_multiplier, decay
            ),
            images_in_stream=None if data.stream is None else data.counts.images,
        )
    for default in (DEFAULT_PROGRESS_CALLBACK, PrinterCallback):
        trainer.remove_callback(default)
    trainer.add_callback(Progress(keys.log_epochs))
    return trainer
