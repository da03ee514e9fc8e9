"""Whether a training can go on from a checkpoint: it is of this model, and reading it runs nothing."""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import safe_globals
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from ..model.errors import HalflabelError, shortlist

_PICKLED = ("optimizer*.pt", "scheduler*.pt", "rng_state*.pth")


def check_checkpoint(folder: Path, model: nn.Module) -> None:
    """Refuse a checkpoint of another model, or one that is not whole, before training is set up.

    The Trainer would load weights by the names that happen to fit, and leave the others random. The pickled parts are
    read as the Trainer reads them: their tensors and plain values, and nothing that could run.

    Args:
        folder: What `Trainer.train(resume_from_checkpoint=...)` gets.
        model: What is trained.

    Raises:
        HalflabelError: With the file and what is wrong.
    """
    name = TRAINER_STATE_NAME
    try:
        TrainerState.load_from_json(str(folder / name))
        for path in sorted(path for pattern in _PICKLED for path in folder.glob(pattern) if path.is_file()):
            name = path.name
            with safe_globals():
                torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        name = SAFE_WEIGHTS_NAME
        if (folder / SAFE_WEIGHTS_INDEX_NAME).is_file():  # in pieces: transformers compares these itself
            return
        with safe_open(folder / name, framework="pt") as stored:
            shapes = {key: tuple(stored.get_slice(key).get_shape()) for key in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, RuntimeError, EOFError) as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else "it is cut off or damaged"
        raise HalflabelError(f"{folder} is no checkpoint to resume from: {name}: {reason}") from error
    except Exception as error:  # UnpicklingError, and whatever else a pickle makes of being refused
        raise HalflabelError(f"{folder} is not resumed from: {name} is damaged, or would run code") from error
    expected = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    differing = sorted(key for key in shapes.keys() | expected.keys() if shapes.get(key) != expected.get(key))
    if differing:
        raise HalflabelError(f"{folder} is of another network or of other labels: {shortlist(differing, 3)} differ")
