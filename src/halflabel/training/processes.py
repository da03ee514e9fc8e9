"""Which of several processes this is."""

import torch
from accelerate import PartialState


def process_state() -> PartialState:
    """Return accelerate's state of this process.

    Processes that a launcher started on CPUs are told that they are on CPUs: without, accelerate takes each for the
    only one, and all would do the whole work.
    """
    return PartialState(cpu=not torch.accelerator.is_available())
