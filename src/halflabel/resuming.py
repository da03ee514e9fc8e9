"""Checkpoints that resume exactly where the model they hold is not the one that is trained."""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .errors import HalflabelError

TRAINING_WEIGHTS = "training_weights.safetensors"
_TRAINED = "trained."


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters and buffers by name: the tensors themselves, whatever `state_dict` makes of them."""
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *model.named_buffers())}


@torch.no_grad()
def copy_weights(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy each tensor of `target` from the one of that name in `source`, in place."""
    for name, tensor in target.items():
        tensor.copy_(source[name])


class KeepTrainingWeights(TrainerCallback):
    """Write the weights as they are trained into every checkpoint, and go on from them.

    `model.safetensors` in a checkpoint is a whole model for use. Where that is not what the optimizer works on
    (`averaging`, `lora`), this callback keeps the latter beside it, in safetensors, so that a resumed run equals one
    without a break.
    """

    def __init__(self, checkpoint: str | Path | None = None) -> None:
        """Say where the run goes on from.

        Args:
            checkpoint: What `Trainer.train(resume_from_checkpoint=...)` gets; None: a fresh run, or the checkpoint
                of the step that the run resumes at, in `output_dir`.
        """
        self.checkpoint = None if checkpoint is None else Path(checkpoint)

    def training_weights(self, model: nn.Module) -> dict[str, Tensor]:
        """Return what is written, by name."""
        return {f"{_TRAINED}{name}": tensor for name, tensor in weights_of(model).items()}

    def restore(self, model: nn.Module, stored: dict[str, Tensor]) -> None:
        """Take back what was written; the model holds the weights of `model.safetensors` at that time."""
        trained = {name.removeprefix(_TRAINED): stored[name] for name in stored if name.startswith(_TRAINED)}
        copy_weights(trained, weights_of(model))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,  # noqa: ANN401 - transformers' own contract
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Take the weights of the checkpoint that the run resumes from.

        Raises:
            HalflabelError: If it was not written with this callback, or by a run with other settings.
        """
        if not state.global_step:
            return
        path = (self.checkpoint or self._folder(args, state)) / TRAINING_WEIGHTS
        if not path.is_file():
            raise HalflabelError(f"{path}: no such file, and this run cannot resume without it; start it afresh")
        try:
            self.restore(model, load_file(path, device=str(model.device)))
        except (KeyError, RuntimeError) as error:
            raise HalflabelError(f"{path} is of a run with another model or other settings: {error}") from error

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Write just before the Trainer saves, which then removes the checkpoint before; not before an evaluation.

        A run that is broken off while it evaluates would leave a checkpoint without a model.
        """
        if control.should_save and not control.should_evaluate:
            self._write(args, state, model)

    on_epoch_end = on_step_end
    on_evaluate = on_step_end

    def on_save(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,  # noqa: ANN401
        **kwargs: Any,  # noqa: ANN401
    ) -> None:
        """Write where only the evaluation decided that the step is worth a checkpoint."""
        if not (self._folder(args, state) / TRAINING_WEIGHTS).is_file():
            self._write(args, state, model)

    @staticmethod
    def _folder(args: TrainingArguments, state: TrainerState) -> Path:
        return Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

    def _write(self, args: TrainingArguments, state: TrainerState, model: nn.Module) -> None:
        if not args.should_save or args.save_only_model:
            return
        folder = self._folder(args, state)
        folder.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.cpu().clone() for name, tensor in self.training_weights(model).items()}
        save_file(weights, folder / TRAINING_WEIGHTS)
